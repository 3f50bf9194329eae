"""A data set on disk: token ids in memory-mapped shards, with a manifest of checksums.

manifest.json          counts, checksums, the tokenizer's fingerprint
tokenizer.json         the tokenizer of the ids
train-00000.bin        ids, uint16 or uint32, documents concatenated
train-00000.loss_mask  a byte an id, 1 if it counts in the loss; only with conversations
train.starts           offset of each document in its split: uint64
val-00000.bin, val.starts

In data sets made by earlier versions the loss mask has the suffix .learn; both are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from kgpt.data.remote import is_remote
from kgpt.data.shard_cache import RemoteDataSet, RemoteShards, StoredFile
from kgpt.errors import DataError
from kgpt.files import describe_damage, is_lfs_pointer, sha256
from kgpt.text.tokenizer import Tokenizer

FORMAT = 1
LOSS_MASK, FORMER_LOSS_MASK = ".loss_mask", ".learn"


class Shard(BaseModel):
    """One shard: `name`.bin with the ids, `name`.loss_mask with their loss mask, if any."""

    model_config = ConfigDict(populate_by_name=True)

    name: str
    tokens: int
    sha256: str
    loss_mask_sha256: str | None = Field(
        None, validation_alias=AliasChoices("loss_mask_sha256", "learn_sha256")
    )


class SplitInfo(BaseModel):
    """One split of a data set: how much it holds, and in which files."""

    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0  # UTF-8 bytes of the text: bits per byte need them
    shards: list[Shard] = []


class Manifest(BaseModel):
    """What manifest.json says.

    Attributes:
        invalid_rows: how many rows of the sources were left out.
        left_out: how many documents each rule that was given left out, in the order of application.
        truncated, too_long: how many conversations longer than `max_length` were cut or left out.
    """

    format: int = FORMAT
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    sources: list[str] = []
    splits: dict[str, SplitInfo] = {}
    invalid_rows: int = 0
    truncated: int = 0
    too_long: int = 0
    max_length: int | None = None
    left_out: dict[str, int] = {}

    @property
    def content_sha256(self) -> str:
        """SHA-256 of ids, loss masks and tokenizer; sources and folder may be called otherwise."""
        digest = hashlib.sha256(f"{self.tokenizer_sha256} {self.dtype}".encode())
        for split, info in sorted(self.splits.items()):
            for shard in info.shards:
                line = f"{split} {shard.tokens} {shard.sha256} {shard.loss_mask_sha256}"
                digest.update(line.encode())
        return digest.hexdigest()

    @property
    def notes(self) -> list[str]:
        """Lines for people: how many rows and conversations were left out or cut."""
        limit = f"longer than {self.max_length:,} tokens" if self.max_length else ""
        counts = (
            (self.invalid_rows, "row", "that cannot be used, left out"),
            (self.truncated, "conversation", f"{limit}, cut at the end"),
            (self.too_long, "conversation", f"{limit}, left out"),
        )
        notes = [f"{n:,} {what}{'s' * (n > 1)} {why}" for n, what, why in counts if n]
        return notes + [
            f"{count:,} document{'s' * (count != 1)} left out by {rule}"
            for rule, count in self.left_out.items()
        ]


class TokenDataset:
    """A data set opened for reading. Its size is checked now, its bytes by `verify`.

    At an address only the manifest and the tokenizer are read now, and a shard, with its checksum,
    when it is needed; see `kgpt.data.shard_cache`.

    Attributes:
        name: its folder as it was given, or its address.
        folder: where its manifest and tokenizer are.
    """

    def __init__(self, folder: Path | str):
        self.name = str(folder)
        self._remote = RemoteDataSet(self.name) if is_remote(self.name) else None
        self.folder = self._remote.folder if self._remote else Path(folder)
        file = self.folder / "manifest.json"
        if not file.is_file():
            raise DataError(
                f"There is no data set in {self.folder}; make one with "
                f"`kgpt data prepare YOUR_TEXT --out {self.folder}`."
            )
        try:
            self.manifest = Manifest.model_validate(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, ValidationError):
            if is_lfs_pointer(file):
                raise DataError(describe_damage(file, "")) from None
            raise self._damaged("its manifest.json is not one of kgpt's") from None
        if self.manifest.format != FORMAT:
            raise self._damaged(f"it has format {self.manifest.format}, this kgpt reads {FORMAT}")
        self._dtype = np.dtype(self.manifest.dtype)
        for name, size, _ in self._expected() if self._remote is None else ():
            path = self.folder / name
            if is_lfs_pointer(path):
                raise DataError(describe_damage(path, ""))
            if not path.is_file() or path.stat().st_size != size:
                raise self._damaged(f"{path.name} is missing or has the wrong size")

    @property
    def is_remote(self) -> bool:
        """True if it is at an address."""
        return self._remote is not None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the ids, with kgpt's own chat template only if it has conversations."""
        tokenizer = Tokenizer.load(self.folder)
        if tokenizer.fingerprint != self.manifest.tokenizer_sha256:
            raise self._damaged("tokenizer.json is not the one that made it")
        if not self.has_conversations and not tokenizer.special_tokens.config:
            tokenizer.special_tokens = replace(tokenizer.special_tokens, chat_template=None)
        return tokenizer

    @property
    def has_conversations(self) -> bool:
        """True if the data set was made of conversations, which have a loss mask."""
        return self.loss_mask("train") is not None

    def tokens(self, split: str) -> TokenStream:
        """The ids of "train" or "val" as one long sequence."""
        shards = self.manifest.splits.get(split, SplitInfo()).shards
        return self._stream(
            [self._ids_file(shard) for shard in shards], self._dtype, self.manifest.vocab_size
        )

    def loss_mask(self, split: str) -> TokenStream | None:
        """For each id whether it counts in the loss, 0 or 1; None if all do."""
        shards = self.manifest.splits.get(split, SplitInfo()).shards
        files = [self._mask_file(shard) for shard in shards]
        if None in files:
            return None
        return self._stream([file for file in files if file], np.dtype(np.uint8))

    def _ids_file(self, shard: Shard) -> StoredFile:
        return StoredFile(f"{shard.name}.bin", shard.tokens * self._dtype.itemsize, shard.sha256)

    def _mask_file(self, shard: Shard) -> StoredFile | None:
        if shard.loss_mask_sha256 is None:
            return None
        is_former = (self.folder / f"{shard.name}{FORMER_LOSS_MASK}").is_file()
        name = f"{shard.name}{FORMER_LOSS_MASK if is_former else LOSS_MASK}"
        return StoredFile(name, shard.tokens, shard.loss_mask_sha256)

    def _stream(
        self, files: list[StoredFile], dtype: np.dtype[Any], vocab_size: int | None = None
    ) -> TokenStream:
        sizes = [file.size // dtype.itemsize for file in files]
        if self._remote is not None:
            return TokenStream(RemoteShards(self._remote, files, dtype), vocab_size, sizes)
        paths = [self.folder / file.name for file in files]
        arrays = [np.memmap(path, dtype=dtype, mode="r") for path in paths]
        return TokenStream(arrays, vocab_size)

    def document_offsets(self, split: str) -> np.ndarray:
        """(documents,) uint64: where each document of a split starts."""
        file = self.folder / f"{split}.starts"
        if self._remote is not None:
            count = self.manifest.splits.get(split, SplitInfo()).documents
            file = self._remote.file(file.name, count * np.dtype(np.uint64).itemsize)
        if not file.is_file() or file.stat().st_size == 0:
            return np.zeros(0, dtype=np.uint64)
        return np.memmap(file, dtype=np.uint64, mode="r")

    def bytes_per_token(self, split: str) -> float:
        """Mean UTF-8 bytes of text a token stands for."""
        info = self.manifest.splits.get(split, SplitInfo())
        return info.text_bytes / max(1, info.tokens)

    def verify(self) -> None:
        """Compare every shard with its checksum; raises `DataError` at the first difference."""
        for file in self._expected():
            path = self._remote.shard(file) if self._remote else self.folder / file.name
            if sha256(path) != file.sha256:
                path.unlink() if self._remote else None
                raise self._damaged(f"the bytes of {file.name} have changed")

    def _expected(self) -> Iterator[StoredFile]:
        """Every file of shards that must be there."""
        for split in self.manifest.splits.values():
            for shard in split.shards:
                yield self._ids_file(shard)
                if mask := self._mask_file(shard):
                    yield mask

    def _damaged(self, reason: str) -> DataError:
        return DataError(
            f"The data set {self.name} cannot be used: {reason}; "
            "make it again with `kgpt data prepare`."
        )


class TokenStream:
    """Shards read as if they were one array of ids.

    Args:
        vocab_size: what is read must be below it; None does not check.
        sizes: of the arrays, if they are not to be opened to know them.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        vocab_size: int | None = None,
        sizes: Sequence[int] | None = None,
    ):
        self.arrays, self.vocab_size = arrays, vocab_size
        sizes = [array.size for array in arrays] if sizes is None else sizes
        self.ends = np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def windows(self, starts: np.ndarray, length: int) -> np.ndarray:
        """(len(starts), length) int32: the ids from each start on; all within the stream.

        Raises `DataError` if one is beyond the vocabulary.
        """
        return self.take(starts[:, None] + np.arange(length))

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The ids at `indices` (...), as int32 (...).

        Raises `DataError` if one is beyond the vocabulary.
        """
        if len(self.arrays) == 1:
            ids = self.arrays[0][indices].astype(np.int32)
        else:
            ids = np.empty(indices.shape, np.int32)
            shards = np.searchsorted(self.ends, indices, side="right")
            for shard in np.unique(shards).tolist():
                here = shards == shard
                begin = int(self.ends[shard - 1]) if shard else 0
                ids[here] = self.arrays[shard][indices[here] - begin]
        if self.vocab_size is not None and ids.size:
            most = int(ids.view(np.uint32).max())  # a uint32 that int32 has made negative counts
            if most >= self.vocab_size:
                raise DataError(
                    f"A token id is {most}, but the data set has a vocabulary of "
                    f"{self.vocab_size}, so it is damaged; make it again with `kgpt data prepare`."
                )
        return ids
