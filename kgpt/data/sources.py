"""Read documents from .txt, .md, .jsonl and .parquet files, gzipped or not, folders, globs, stdin.

Files are streamed: the text of a document comes in parts, so files can be larger than memory.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kgpt.errors import DataError, UsageError
from kgpt.files import os_errors_as_kgpt
from kgpt.text.chunking import chunk_text

SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
PART_BYTES = 1 << 20  # read at a time
Split = Literal["train", "val"]


@dataclass
class Document:
    """A text or a conversation; `split` is set if the source determines it."""

    parts: Iterator[str] = field(default_factory=lambda: iter(()))
    messages: list[dict[str, str]] | None = None
    split: Split | None = None


class Corpus:
    """The documents of a list of sources, in a fixed order.

    Args:
        sources: files, folders, globs, or "-" for standard input.
        text_field: the field or column of .jsonl and .parquet with the text. A .jsonl row with
            `messages` instead is a conversation.
        separator: string between documents in .txt and .md files; None: one document a file.
        val_fraction: share of a single text, at its end, that is its validation split.
    """

    def __init__(
        self,
        sources: Sequence[str],
        text_field: str = "text",
        separator: str | None = None,
        val_fraction: float = 0.1,
    ):
        self.text_field = text_field
        self.separator = separator
        self.val_fraction = val_fraction
        self._spool = tempfile.TemporaryDirectory(prefix="kgpt-")
        self.names, self.files = self._find(sources)
        self.total_bytes = sum(file.stat().st_size for file in self.files)
        self.bytes_read = 0

    @property
    def is_one_text(self) -> bool:
        """True if there is a single document, which is then split by position."""
        return (
            len(self.files) == 1
            and self.separator is None
            and _format(self.files[0]) in ("txt", "md")
        )

    @property
    def has_conversations(self) -> bool:
        """True if the first row of some .jsonl file is a conversation."""
        files = [file for file in self.files if _format(file) == "jsonl"]
        return any(next(self._jsonl(file), Document()).messages is not None for file in files)

    def documents(self) -> Iterator[Document]:
        """Every document once; consume the parts of one before taking the next."""
        self.bytes_read = 0
        if self.is_one_text:
            yield from self._split_by_position(self.files[0])
            return
        for file in self.files:
            before = self.bytes_read
            yield from getattr(self, f"_{_format(file)}")(file)
            self.bytes_read = before + file.stat().st_size

    def texts(self) -> Iterator[str]:
        """All text, in chunks, to train a tokenizer on.

        The validation split of a corpus that is one text is left out.
        """
        for document in self.documents():
            if document.split == "val":
                continue
            for message in document.messages or ():
                yield message["content"]
            yield from chunk_text(document.parts)

    # -- one method for each format --------------------------------------------------------

    def _txt(self, file: Path) -> Iterator[Document]:
        with _open(file) as raw:
            text = self._decode(raw)
            if self.separator is None:
                yield Document(text)
            else:
                yield from (Document(iter([part])) for part in _split(text, self.separator))

    _md = _txt

    def _jsonl(self, file: Path) -> Iterator[Document]:
        with _open(file) as raw:
            for number, line in enumerate(raw, 1):
                self.bytes_read += len(line)
                if line.strip():
                    yield self._row(line, f"{file.name}, line {number}")

    def _row(self, line: bytes, where: str) -> Document:
        try:
            row = json.loads(line)
        except ValueError:
            raise DataError(f"{where} is not JSON; each line must be one JSON object.") from None
        if isinstance(row, dict) and "messages" in row and self.text_field not in row:
            return Document(messages=check_messages(row["messages"], where))
        text = row.get(self.text_field) if isinstance(row, dict) else None
        if not isinstance(text, str):
            fields = ", ".join(row) if isinstance(row, dict) else "none"
            raise DataError(
                f"{where} has no text in the field {self.text_field!r}; "
                f"choose one with --field (its fields: {fields})."
            )
        return Document(iter([text]))

    def _parquet(self, file: Path) -> Iterator[Document]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UsageError(
                'Reading .parquet needs pyarrow; install it with `pip install "kgpt[parquet]"`.'
            ) from None
        try:
            table = parquet.ParquetFile(file)
        except (ArrowException, OSError) as error:
            raise DataError(f"{file} is not a readable parquet file: {error}.") from None
        if self.text_field not in table.schema_arrow.names:
            columns = ", ".join(table.schema_arrow.names)
            raise DataError(
                f"{file} has no column {self.text_field!r}; "
                f"choose one with --field (its columns: {columns})."
            )
        step = file.stat().st_size / max(1, table.metadata.num_rows)
        start = self.bytes_read
        for batch in table.iter_batches(batch_size=256, columns=[self.text_field]):
            for value in batch.column(0):
                self.bytes_read = int(start := start + step)
                if (text := value.as_py()) is not None:
                    yield Document(iter([text]))

    def _split_by_position(self, file: Path) -> Iterator[Document]:
        """One text as two documents: the beginning for training, the end for validation."""
        size = file.stat().st_size
        with _open(file) as raw:
            cut = _character_boundary(raw, int(size * (1 - self.val_fraction)))
            raw.seek(0)
            yield Document(self._decode(raw, cut), split="train")
            raw.seek(cut)
            if cut < size:
                yield Document(self._decode(raw), split="val")

    # -- finding and opening ---------------------------------------------------------------

    def _decode(self, raw: BinaryIO, length: int | None = None) -> Iterator[str]:
        """Text of the next `length` bytes (None: all), in parts; invalid UTF-8 becomes U+FFFD."""
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        left = length
        while data := raw.read(PART_BYTES if left is None else min(PART_BYTES, left)):
            self.bytes_read += len(data)
            left = None if left is None else left - len(data)
            yield utf8.decode(data)
        if rest := utf8.decode(b"", final=True):
            yield rest

    def _find(self, sources: Sequence[str]) -> tuple[list[str], list[Path]]:
        names: list[str] = []
        files: list[Path] = []
        for source in sources:
            for path in self._expand(source):
                names.append(str(path))
                files.append(self._decompress(path))
        if not files:
            raise UsageError(f"No {', '.join(SUFFIXES)} files were found in {', '.join(sources)}.")
        return names, files

    def _expand(self, source: str) -> list[Path]:
        if source == "-":
            return [Path("-")]
        path = Path(source)
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file() and _format(file))
        paths = [path] if path.is_file() else [Path(name) for name in sorted(glob.glob(source))]
        if not paths:
            raise UsageError(f"{source} does not exist; name a file, a folder, a glob or '-'.")
        for file in paths:
            if file.is_file() and not _format(file):
                known = ", ".join(SUFFIXES)
                raise UsageError(f"kgpt cannot read {file}; it reads {known}, and these gzipped.")
        return [file for file in paths if file.is_file()]

    def _decompress(self, path: Path) -> Path:
        """`path` itself, or a temporary file with the contents of a gzipped file or stdin."""
        if path.name != "-" and path.suffix != ".gz":
            return path
        name = "stdin.txt" if path.name == "-" else f"{len(path.parts)}-{path.stem}"
        target = Path(tempfile.mkdtemp(dir=self._spool.name)) / name
        with (
            os_errors_as_kgpt(f"decompress {path} into {self._spool.name}"),
            sys.stdin.buffer if path.name == "-" else _open(path) as raw,
            target.open("wb") as plain,
        ):
            if path.name == "-":
                shutil.copyfileobj(raw, plain, PART_BYTES)
                return target
            try:
                shutil.copyfileobj(gzip.GzipFile(fileobj=raw), plain, PART_BYTES)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DataError(f"{path} is damaged and cannot be decompressed: {error}.") from None
        return target


def check_messages(messages: Any, where: str) -> list[dict[str, str]]:
    """`messages` if it is a list of {"role": ..., "content": ...}; else raises `DataError`."""
    valid = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not valid or not messages:
        raise DataError(f'{where}: messages must be a list of {{"role": ..., "content": ...}}.')
    return list(messages)


def _open(file: Path) -> BinaryIO:
    """Open a file for reading; raises `DataError` if it cannot be."""
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None


def _format(file: Path) -> str:
    """The format of a file by its suffix, .gz aside: "txt", "md", "jsonl", "parquet", or ""."""
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1][1:] if suffixes and suffixes[-1] in SUFFIXES else ""


def _character_boundary(raw: BinaryIO, offset: int) -> int:
    """The first offset from `offset` on at which a UTF-8 character begins."""
    raw.seek(offset)
    for extra, byte in enumerate(raw.read(4)):
        if byte & 0xC0 != 0x80:
            return offset + extra
    return offset


def _split(text: Iterator[str], separator: str) -> Iterator[str]:
    """Split a stream of text at a separator; blank documents are left out."""
    rest = ""
    for part in text:
        *documents, rest = (rest + part).split(separator)
        yield from (document for document in documents if document.strip())
    if rest.strip():
        yield rest
