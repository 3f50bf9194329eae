"""Write the shards of a data set with their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kgpt.data.shards import LOSS_MASK, Manifest, Shard, SplitInfo
from kgpt.files import write_json

SHARD_BYTES = 256 << 20


class SplitWriter:
    """Writes one split of a data set, shard by shard.

    Args:
        masked: also write a loss mask.
    """

    def __init__(
        self, folder: Path, split: str, dtype: str, masked: bool, shard_bytes: int = SHARD_BYTES
    ):
        self.info = SplitInfo()
        self._folder, self._split, self._dtype = folder, split, np.dtype(dtype)
        self._suffixes = (".bin", LOSS_MASK) if masked else (".bin",)
        self._shard_tokens = shard_bytes // self._dtype.itemsize
        self._starts = (folder / f"{split}.starts").open("wb")
        self._files: list[_HashedFile] = []
        self._shard_space = 0

    def begin_documents(self, offsets: Sequence[int] | np.ndarray) -> None:
        """Add documents that start at these offsets from the end of the split so far."""
        starts = self.info.tokens + np.asarray(offsets, dtype=np.uint64)
        self._starts.write(starts.astype(np.uint64).tobytes())
        self.info.documents += len(offsets)

    def write(self, ids: Sequence[int] | np.ndarray, loss_mask: np.ndarray | bool = True) -> None:
        """Append ids; `loss_mask`, one for each or one for all, tells which count in the loss."""
        array = np.asarray(ids, dtype=self._dtype)
        mask = np.broadcast_to(np.asarray(loss_mask, dtype=np.uint8), array.shape)
        while array.size:
            if self._shard_space == 0:
                self._next_shard()
            ids_now, array = array[: self._shard_space], array[self._shard_space :]
            mask_now, mask = mask[: self._shard_space], mask[self._shard_space :]
            for file, part in zip(self._files, (ids_now, mask_now), strict=False):
                file.write(part.tobytes())
            self._shard_space -= ids_now.size
            self.info.tokens += ids_now.size
            self.info.shards[-1].tokens += ids_now.size

    def close(self) -> SplitInfo:
        self._starts.close()
        self._end_shard()
        return self.info

    def _next_shard(self) -> None:
        self._end_shard()
        name = f"{self._split}-{len(self.info.shards):05d}"
        self._files = [_HashedFile(self._folder / f"{name}{end}") for end in self._suffixes]
        self._shard_space = self._shard_tokens
        self.info.shards.append(Shard(name=name, tokens=0, sha256=""))

    def _end_shard(self) -> None:
        if self._files:
            sums = [file.close() for file in self._files]
            shard = self.info.shards[-1]
            shard.sha256, shard.loss_mask_sha256 = sums[0], sums[1] if len(sums) > 1 else None
            self._files = []


class _HashedFile:
    """A file with a running SHA-256 of its bytes."""

    def __init__(self, path: Path):
        self._file, self._hash = path.open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)

    def close(self) -> str:
        self._file.close()
        return self._hash.hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / "manifest.json", manifest.model_dump())
