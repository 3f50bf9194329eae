"""Batches of documents as token ids, before they are given to splits and shards."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

SPLITS = ("train", "val")
UNDECIDED = len(SPLITS)  # the split of a document that is decided by its place among the others


@dataclass
class EncodedBatch:
    """The documents of a `SourceBatch` that are left, or chunks of them, as token ids.

    Attributes:
        ids: (tokens,) of the data set's dtype.
        loss_mask: (tokens,) uint8; empty if all tokens count in the loss.
        lengths: (pieces,) int64 tokens of each.
        text_bytes: (pieces,) int64 UTF-8 bytes of the text of each, markup excluded.
        starts: (pieces,) bool, whether a document starts there.
        splits: (pieces,) int8 index into `SPLITS`, or `UNDECIDED`.
        keys: (documents, width) of the documents that start there, to find duplicates by; empty
            without deduplication.
        counts: what was left out or cut, by the name of the rule.
        invalid: the first sentences on invalid rows.
    """

    number: int
    ids: np.ndarray
    loss_mask: np.ndarray
    lengths: np.ndarray
    text_bytes: np.ndarray
    starts: np.ndarray
    splits: np.ndarray
    keys: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)
    invalid: list[str] = field(default_factory=list)

    ARRAYS: ClassVar[tuple[str, ...]] = (
        "ids",
        "loss_mask",
        "lengths",
        "text_bytes",
        "starts",
        "splits",
        "keys",
    )

    def to_bytes(self) -> bytes:
        """A .npz file, which carries checksums."""
        head = {"number": self.number, "counts": dict(self.counts), "invalid": self.invalid}
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in self.ARRAYS}
        np.savez(buffer, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> EncodedBatch:
        """Raises `ValueError`, `KeyError` or `zipfile.BadZipFile` if `data` is damaged."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            values = {name: arrays[name] for name in cls.ARRAYS}
        return cls(
            head["number"], **values, counts=Counter(head["counts"]), invalid=head["invalid"]
        )
