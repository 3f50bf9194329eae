"""A data set made in parts, by as many machines: each encodes its share, a merge writes the shards.

part.json      which part of what; how many batches there are once it is complete
tokenizer.json
batches.bin    encoded batches, each after its length and a digest of its documents

Part i of n has every n-th batch of the corpus. It reads all of it, which takes little of the time
that encoding takes, so that all parts agree on the batches. A part that was interrupted keeps the
batches that it has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import filelock
from pydantic import BaseModel, ValidationError

from kgpt.data.assembly import DataSetDescription
from kgpt.data.batch_encoder import EncodingOptions
from kgpt.data.encoded_batch import EncodedBatch
from kgpt.data.source_batches import SourceBatch
from kgpt.errors import DataError, UsageError
from kgpt.files import sync, write_json
from kgpt.text.tokenizer import Tokenizer

PART_FORMAT = 1
HEADER = struct.Struct("<Q16s")  # bytes of the batch, digest of its documents


class PartDescription(BaseModel):
    """What part.json says.

    Attributes:
        part, num_parts: "2/3" is part 2 of 3.
        num_batches: of the whole corpus, once the part is complete.
        corpus_digest: of the whole corpus, once the part is complete.
    """

    format: int = PART_FORMAT
    part: int
    num_parts: int
    data_set: DataSetDescription
    encoding: EncodingOptions
    num_batches: int | None = None
    corpus_digest: str | None = None

    @property
    def name(self) -> str:
        return f"{self.part}/{self.num_parts}"

    def owns(self, batch: int) -> bool:
        return batch % self.num_parts == self.part - 1


def parse_part(text: str) -> tuple[int, int]:
    """Part and number of parts.

    >>> parse_part("2/3")
    (2, 3)
    """
    part, _, num_parts = text.partition("/")
    if part.isdecimal() and num_parts.isdecimal() and 1 <= int(part) <= int(num_parts):
        return int(part), int(num_parts)
    raise UsageError(f"--part should be a part of a number of parts, as in 2/3, not {text!r}.")


class PartWriter:
    """Writes a part, or goes on with it where it was interrupted; a context manager.

    Raises:
        UsageError: the folder has something else in it.
        DataError: another process writes it.
    """

    def __init__(self, folder: Path, description: PartDescription, tokenizer: Tokenizer):
        self.folder, self.description = folder, description
        self._lock = filelock.FileLock(folder / ".lock")
        self._tokenizer = tokenizer
        self._corpus = hashlib.blake2b(digest_size=16)
        self._digests: dict[int, bytes] = {}
        self._num_batches = 0

    def __enter__(self) -> PartWriter:
        check_part_folder(self.folder, self.description)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(blocking=False)
        except filelock.Timeout:
            raise DataError(f"Another process is preparing {self.folder}; wait for it.") from None
        write_json(self.folder / "part.json", self.description.model_dump())
        self._tokenizer.save(self.folder)
        file = self.folder / "batches.bin"
        end, self._kept = _scan(file) if file.is_file() else (0, [])
        self._file = file.open("r+b" if file.is_file() else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._lock.release()

    def missing(self, batches: Iterator[SourceBatch]) -> Iterator[SourceBatch]:
        """Those of all batches of the corpus that belong to this part and are not yet written.

        Raises `DataError` if the sources have changed since the part was begun.
        """
        kept = iter(self._kept)
        for batch in batches:
            digest = batch.digest()
            self._corpus.update(digest)
            self._num_batches += 1
            if not self.description.owns(batch.number):
                continue
            before = next(kept, None)
            if before is None:
                self._digests[batch.number] = digest
                yield batch
            elif before != digest:
                raise DataError(
                    f"The sources have changed since part {self.description.name} was begun; "
                    f"delete {self.folder} and run this again."
                )

    def add(self, batch: EncodedBatch) -> None:
        data = batch.to_bytes()
        self._file.write(HEADER.pack(len(data), self._digests.pop(batch.number)) + data)
        self._file.flush()

    def complete(self) -> PartDescription:
        """Mark the part as complete, once all of `missing` were added."""
        self._file.close()
        sync(self.folder / "batches.bin")
        state = {"num_batches": self._num_batches, "corpus_digest": self._corpus.hexdigest()}
        done = self.description.model_copy(update=state)
        write_json(self.folder / "part.json", done.model_dump())
        return done


def check_part_folder(folder: Path, description: PartDescription) -> None:
    """Raise `UsageError` if `folder` has something else in it than this part."""
    if not folder.exists() or (folder.is_dir() and not [*folder.glob("[!.]*")]):
        return
    found = read_part(folder) if (folder / "part.json").is_file() else None
    if found is None:
        raise UsageError(f"{folder} exists and is no part; choose another name for --out.")
    begun = {"num_batches": None, "corpus_digest": None}
    if found.model_copy(update=begun) != description:
        raise UsageError(
            f"{folder} has part {found.name} of other sources or options; choose another name for "
            "--out, or delete it."
        )


def read_part(folder: Path) -> PartDescription:
    """What part.json in `folder` says; raises `DataError` if there is none."""
    file = folder / "part.json"
    if not file.is_file():
        raise DataError(
            f"There is no part in {folder}; make it with `kgpt data prepare --part 1/N`."
        )
    try:
        found = PartDescription.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError):
        raise _damaged(folder) from None
    if found.format != PART_FORMAT:
        raise DataError(
            f"{folder} has format {found.format}, this kgpt reads {PART_FORMAT}; make it again."
        )
    return found


def read_encoded(folders: list[Path]) -> Iterator[EncodedBatch]:
    """The batches of all parts in the order of the corpus; `folders` in the order of the parts.

    Raises `DataError` if a part is damaged.
    """
    parts = [(folder, read_part(folder).num_batches or 0) for folder in folders]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / "batches.bin").open("rb")) for folder, _ in parts]
        for number in range(parts[0][1]):
            index = number % len(files)
            batch = _read_batch(files[index], folders[index])
            if batch.number != number:
                raise _damaged(folders[index])
            yield batch


def ordered_parts(folders: list[Path]) -> tuple[PartDescription, list[Path]]:
    """The first part, and the folders of all in their order.

    Raises:
        UsageError: one is missing, given twice, or of another data set.
        DataError: one is not complete, or damaged.
    """
    parts = {folder: read_part(folder) for folder in folders}
    by_part = dict(sorted((part.part, folder) for folder, part in parts.items()))
    for folder, part in parts.items():
        if part.num_batches is None:
            raise DataError(f"Part {part.name} in {folder} is not complete; run its command again.")
    first_folder = by_part[min(by_part)]
    first = parts[first_folder]
    missing = [f"{n}/{first.num_parts}" for n in range(1, first.num_parts + 1) if n not in by_part]
    if missing:
        raise UsageError(f"The parts {', '.join(missing)} are missing; name the folders of all.")
    if len(folders) != first.num_parts or len(by_part) != first.num_parts:
        raise UsageError(f"There are {first.num_parts} parts; name the folder of each once.")
    for folder, part in parts.items():
        if difference := _difference(first, part):
            raise UsageError(
                f"{first_folder} and {folder} are not parts of one data set: {difference}."
            )
    return first, list(by_part.values())


def _difference(first: PartDescription, other: PartDescription) -> str:
    """What makes two parts not belong to one data set; empty if they do."""
    if first.num_parts != other.num_parts:
        return f"one is of {first.num_parts} parts, the other of {other.num_parts}"
    if first.corpus_digest != other.corpus_digest:
        return "their sources differ"
    if first.data_set.tokenizer_sha256 != other.data_set.tokenizer_sha256:
        return "their tokenizers differ"
    ours, theirs = (
        part.data_set.model_dump(exclude={"sources"}) | {"encoding": part.encoding}
        for part in (first, other)
    )
    return "" if ours == theirs else "their options differ"


def _scan(file: Path) -> tuple[int, list[bytes]]:
    """Where the last whole batch of a file ends, and the digests of all."""
    size, end, digests = file.stat().st_size, 0, []
    with file.open("rb") as raw:
        while len(head := raw.read(HEADER.size)) == HEADER.size:
            length, digest = HEADER.unpack(head)
            if end + HEADER.size + length > size:
                break
            end += HEADER.size + length
            digests.append(digest)
            raw.seek(end)
    return end, digests


def _read_batch(raw: BinaryIO, folder: Path) -> EncodedBatch:
    try:
        length, _ = HEADER.unpack(raw.read(HEADER.size))
        return EncodedBatch.from_bytes(raw.read(length))
    except (struct.error, ValueError, KeyError, EOFError, OverflowError, zipfile.BadZipFile):
        raise _damaged(folder) from None


def _damaged(folder: Path) -> DataError:
    return DataError(f"The part in {folder} is damaged; delete it and run its command again.")
