"""Whole documents, such as conversations, packed into rows: little of a batch is padding.

Documents of equal size are interchangeable, so which sizes share a row is decided once, by best-fit
decreasing on the histogram of sizes (Krell et al., 2021), and which document takes which place anew
in each epoch. A model keeps the documents of a row apart by their segment ids.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from kgpt.config.training import Packing
from kgpt.data.sampler import (
    ALL,
    LengthBucketSampler,
    PackedSampler,
    document_sizes,
    feistel_permutation,
    nothing_to_learn_from,
    splitmix64,
)
from kgpt.data.shards import TokenDataset, TokenStream

PackedBatch = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


class Rows(NamedTuple):
    """`num_rows` rows of documents of these `sizes`."""

    num_rows: int
    sizes: list[int]


class PackedDocumentSampler:
    """Shuffled batches of rows of whole documents: a pure function of (seed, step).

    In an epoch every document of two tokens or more is seen once. Of a longer document than a row
    the rest is left out. Memory: a few integers for each document.

    Args:
        stream: the tokens of a split.
        offsets: (documents,) where each document starts in the stream.
        length: T, tokens in a row.
        batch_size: B, rows in a batch.
        seed: of the order.
        loss_mask: 0 or 1 for each token; targets of 0 get weight 0. None weighs all alike.

    Attributes:
        per_epoch: rows in an epoch.
        num_truncated: documents that are longer than a row; see `document_sizes`.
        utilization: share of the tokens of an epoch that are not padding.
        places_by_size: (documents,) int32 places in rows, those of shorter documents first.

    Raises `DataError` if there is nothing to learn from.
    """

    def __init__(
        self,
        stream: TokenStream,
        offsets: np.ndarray,
        length: int,
        batch_size: int,
        seed: int,
        loss_mask: TokenStream | None = None,
    ):
        self.stream, self.length, self.batch_size = stream, length, batch_size
        self.seed, self.loss_mask = seed, loss_mask
        self.offsets = np.asarray(offsets).astype(np.int64)
        self.sizes, self.num_truncated = document_sizes(stream, self.offsets, length, loss_mask)
        self.documents = np.flatnonzero(self.sizes > 0).astype(np.int32)
        if not len(self.documents):
            raise nothing_to_learn_from(length)
        packed = best_fit_decreasing(np.bincount(self.sizes[self.documents]), length)
        counts = np.concatenate([np.full(rows.num_rows, len(rows.sizes)) for rows in packed])
        places = np.concatenate(
            [np.tile(np.array(rows.sizes, np.int32), rows.num_rows) for rows in packed]
        )
        self.row_offsets = np.concatenate([[0], np.cumsum(counts)])
        self.places_by_size = np.argsort(places, kind="stable").astype(np.int32)
        self.per_epoch = len(self.row_offsets) - 1
        self.utilization = float(self.sizes[self.documents].sum()) / self.tokens_per_epoch
        self._placed = functools.lru_cache(maxsize=2)(self._place)

    @property
    def tokens_per_epoch(self) -> int:
        """Padding included."""
        return self.per_epoch * self.length

    @property
    def tokens_per_batch(self) -> int:
        """Padding included."""
        return self.batch_size * self.length

    @property
    def num_evaluation_batches(self) -> int:
        """How many batches `evaluation_batch` makes of the whole split."""
        return -(-self.per_epoch // self.batch_size)

    def batch(self, step: int, rows: slice = ALL) -> PackedBatch:
        """Inputs {"token_ids", "segment_ids"} and targets (B, T) int32, weights (B, T) float32."""
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)[rows]
        packed = [self._row(*divmod(sample, self.per_epoch)) for sample in samples]
        return self._padded(packed, len(samples))

    def evaluation_batch(self, index: int, rows: slice = ALL) -> PackedBatch:
        """Like `batch`, of one epoch: the last is filled up with rows of padding."""
        wanted = range(index * self.batch_size, (index + 1) * self.batch_size)[rows]
        packed = [self._row(0, row) for row in wanted if row < self.per_epoch]
        return self._padded(packed, len(wanted))

    def _row(self, epoch: int, index: int) -> np.ndarray:
        """The documents of row `index` of an epoch."""
        row = int(feistel_permutation(np.array([index]), self.per_epoch, self.seed, epoch)[0])
        return self._placed(epoch)[self.row_offsets[row] : self.row_offsets[row + 1]]

    def _place(self, epoch: int) -> np.ndarray:
        """(documents,) int32: which document takes which place in an epoch."""
        noise = self.noise(self.documents, epoch)
        by_size = np.lexsort((noise, self.sizes[self.documents]))
        placed = np.empty_like(self.documents)
        placed[self.places_by_size] = self.documents[by_size]
        return placed

    def noise(self, documents: np.ndarray, epochs: np.ndarray | int) -> np.ndarray:
        """What orders documents of equal size among the places for them: uint64."""
        return splitmix64(documents, self.seed, (epochs << 8) + 0xD0C)

    def _padded(self, rows: list[np.ndarray], num_rows: int) -> PackedBatch:
        """A batch of rows of documents; what is left of it is padding, of segment 0."""
        shape = (num_rows, self.length)
        segment_ids, indices = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
        for row, documents in enumerate(rows):
            sizes = self.sizes[documents]
            total = int(sizes.sum())
            starts = self.offsets[documents] - (np.cumsum(sizes) - sizes)
            indices[row, :total] = np.repeat(starts, sizes) + np.arange(total)
            segment_ids[row, :total] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
        real = segment_ids > 0
        token_ids = self.stream.take(indices) * real
        targets = self.stream.take(indices + 1) * real
        weights = real.astype(np.float32)
        if self.loss_mask is not None:
            weights *= self.loss_mask.take(indices + 1)
        return {"token_ids": token_ids, "segment_ids": segment_ids}, targets, weights


def best_fit_decreasing(histogram: np.ndarray, length: int) -> list[Rows]:
    """Pack documents into rows of `length` tokens: each, the longest first, into the fullest row
    that has room for it.

    Rows of equal content are treated as one, so the time depends on the number of sizes and not on
    that of documents.

    Args:
        histogram: the number of documents of each size, none longer than a row.

    >>> best_fit_decreasing(np.bincount([3, 3, 3, 6, 5]), 8)
    [Rows(num_rows=1, sizes=[5, 3]), Rows(num_rows=1, sizes=[6]), Rows(num_rows=1, sizes=[3, 3])]
    """
    packed = _RowsByRoom(length)
    for size in reversed(np.flatnonzero(histogram).tolist()):
        left = int(histogram[size])
        while left:
            room, rows = packed.take_fullest(size, left)
            each = room // size
            filled = min(rows.num_rows, left // each)  # so many rows have no more room
            packed.add(room - each * size, Rows(filled, rows.sizes + [size] * each))
            left -= filled * each
            if left and filled < rows.num_rows:  # what is left goes into one more
                packed.add(room - left * size, Rows(1, rows.sizes + [size] * left))
                filled, left = filled + 1, 0
            if rows.sizes:
                packed.add(room, Rows(rows.num_rows - filled, rows.sizes))
    return [rows for alike in packed.rows for rows in alike]


class _RowsByRoom:
    """Rows that are being filled, by the tokens that they have room for."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.rows: list[list[Rows]] = [[] for _ in range(length + 1)]
        self._has_rows = np.zeros(length + 1, bool)

    def add(self, room: int, rows: Rows) -> None:
        if rows.num_rows:
            self.rows[room].append(rows)
            self._has_rows[room] = True

    def take_fullest(self, size: int, count: int) -> tuple[int, Rows]:
        """The fullest rows with room for `size`, and that room; else `count` new rows."""
        fitting = np.flatnonzero(self._has_rows[size:])
        if not len(fitting):
            return self.length, Rows(count, [])
        room = size + int(fitting[0])
        rows = self.rows[room].pop()
        self._has_rows[room] = bool(self.rows[room])
        return room, rows


Sampler = PackedSampler | PackedDocumentSampler | LengthBucketSampler


def make_sampler(
    data: TokenDataset,
    split: str,
    packing: Packing,
    length: int,
    batch_size: int,
    seed: int,
    assistant_only_loss: bool,
) -> Sampler:
    """What makes the batches of a split of a data set; see `TrainDataset`."""
    stream = data.tokens(split)
    loss_mask = data.loss_mask(split) if assistant_only_loss else None
    if packing == "stream":
        return PackedSampler(stream, length, batch_size, seed, loss_mask)
    kind = PackedDocumentSampler if packing == "documents" else LengthBucketSampler
    offsets = data.document_offsets(split)
    return kind(stream, offsets, length, batch_size, seed, loss_mask)
