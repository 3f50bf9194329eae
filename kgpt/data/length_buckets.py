"""Documents of like length together: a pure function of (seed, step), as all batches here.

A packed window begins anywhere; what is learned from whole documents, conversations or labels,
wants each document from its beginning, and padding that does not eat the batch.
"""

from __future__ import annotations

import numpy as np

from kgpt.data.sampler import feistel_permutation
from kgpt.data.shards import TokenStream
from kgpt.errors import DataError

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
SHORTEST = 16  # the first bucket's length; each is twice as long as the one before


class LengthBucketSampler:
    """Shuffled batches of documents, padded to the length of their bucket.

    In an epoch every document of two tokens or more is seen once. The lengths are few (powers of
    two and `length` itself), so a compiled model meets few shapes.

    Args:
        stream: the tokens of a split.
        starts: (documents,) where each document begins in it.
        length: T, the longest row; what a document has more is cut off.
        batch_size: B.
        seed: of the order.
        loss_mask: 0 or 1 for each token; targets of 0 get weight 0. None counts all alike.
    """

    def __init__(
        self,
        stream: TokenStream,
        starts: np.ndarray,
        length: int,
        batch_size: int,
        seed: int,
        loss_mask: TokenStream | None = None,
    ):
        self.stream, self.batch_size, self.seed = stream, batch_size, seed
        self.loss_mask = loss_mask
        self.starts = np.asarray(starts).astype(np.int64)
        sizes = np.diff(self.starts, append=len(stream)) - 1  # targets: one less than tokens
        self.sizes = np.minimum(sizes, length)
        self.lengths = _lengths(length)
        bucket = np.searchsorted(self.lengths, self.sizes)
        self.members = [
            np.flatnonzero((bucket == i) & (self.sizes > 0)) for i in range(len(self.lengths))
        ]
        # Batches of each bucket; the last of a bucket may be short of documents.
        self.counts = np.array([-(-len(members) // batch_size) for members in self.members])
        self.per_epoch = int(self.counts.sum())
        if not self.per_epoch:
            raise DataError("No document has two tokens or more; there is nothing to learn from.")

    def batch(self, step: int) -> Batch:
        """Inputs and targets (B, L) int32, weights (B, L) float32; L is the bucket's length."""
        epoch, place = divmod(step, self.per_epoch)
        number = int(feistel_permutation(np.array([place]), self.per_epoch, self.seed, epoch)[0])
        ends = np.cumsum(self.counts)
        bucket = int(np.searchsorted(ends, number, side="right"))
        within = number - int(ends[bucket] - self.counts[bucket])
        return self._padded(self._documents(bucket, within, epoch), self.lengths[bucket])

    def _documents(self, bucket: int, number: int, epoch: int) -> np.ndarray:
        """The documents of a bucket's batch `number`."""
        members = self.members[bucket]
        first = number * self.batch_size
        places = np.arange(first, min(first + self.batch_size, len(members)))
        return members[feistel_permutation(places, len(members), self.seed + 1 + bucket, epoch)]

    def _padded(self, documents: np.ndarray, length: int) -> Batch:
        shape = (self.batch_size, length)
        inputs, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for row, document in enumerate(documents):
            size, start = int(self.sizes[document]), self.starts[document : document + 1]
            window = self.stream.windows(start, size + 1)[0]
            inputs[row, :size], targets[row, :size] = window[:-1], window[1:]
            weights[row, :size] = 1
            if self.loss_mask is not None:
                weights[row, :size] = self.loss_mask.windows(start + 1, size)[0]
        return inputs, targets, weights


def _lengths(longest: int) -> list[int]:
    """Row lengths of the buckets: 16, 32, ..., and the longest."""
    lengths = []
    length = SHORTEST
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]
