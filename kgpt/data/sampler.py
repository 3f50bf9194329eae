"""The tokens of each batch: a pure function of (seed, step), in plain NumPy.

Samplers keep no state between batches, so resuming is exact, tests are deterministic and processes
can share the work: each makes some rows of a batch alone, `rows`, and the batch is the same.

- `PackedSampler`: in each epoch the token stream is cut, from a random offset on, into adjacent
  windows, visited in random order: every token is seen once an epoch, in changing windows.
- `PackedDocumentSampler` in packing.py: whole documents, packed into rows.
- `LengthBucketSampler`: whole documents, such as conversations, batched with others of similar
  length, so that little of a batch is padding.
- `evaluation_batch`: a whole split in order.
"""

from __future__ import annotations

import numpy as np

from kgpt.data.shards import TokenStream
from kgpt.errors import DataError

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]
ROUNDS = 4  # of the Feistel network; four make a pseudorandom permutation
MIN_BUCKET_LENGTH = 16  # each further bucket is twice as long
ALL = slice(None)  # rows of a batch


class PackedSampler:
    """Shuffled training windows.

    Args:
        stream: the tokens.
        length: T, tokens in a training sequence; a window has one more, for the last target.
        batch_size: B.
        seed: of the order.
        loss_mask: 0 or 1 for each token; targets of 0 get weight 0. None weighs all alike.

    Raises `DataError` if the stream is shorter than one window.
    """

    def __init__(
        self,
        stream: TokenStream,
        length: int,
        batch_size: int,
        seed: int,
        loss_mask: TokenStream | None = None,
    ):
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.loss_mask = loss_mask
        # One window fewer than fit, so that any offset below T is possible.
        self.per_epoch = (len(stream) - 1) // length - 1
        if self.per_epoch < 1:
            if len(stream) <= length:
                raise DataError(
                    f"The training text has {len(stream)} tokens, too few for one sequence of "
                    f"{length}; add text, or lower model.max_length."
                )
            self.per_epoch = 1

    @property
    def tokens_per_epoch(self) -> int:
        return len(self.stream)

    @property
    def tokens_per_batch(self) -> int:
        return self.batch_size * self.length

    def batch(self, step: int, rows: slice = ALL) -> tuple[np.ndarray, ...]:
        """Inputs and targets of `step`, each (B, T) int32; weights (B, T) with a loss mask."""
        samples = np.arange(self.batch_size, dtype=np.int64)[rows] + step * self.batch_size
        epochs, indices = np.divmod(samples, self.per_epoch)
        starts = np.empty(len(samples), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order = feistel_permutation(indices[here], self.per_epoch, self.seed, epoch)
            starts[here] = order * self.length + self.offsets(np.uint64(epoch))
        windows = self.stream.windows(starts, self.length + 1)  # (B, T + 1)
        inputs, targets = windows[:, :-1], windows[:, 1:]
        if self.loss_mask is None:
            return inputs, targets
        return inputs, targets, self.loss_mask.windows(starts + 1, self.length).astype(np.float32)

    def offsets(self, epochs: np.ndarray | np.uint64) -> np.ndarray:
        """Where the first window of each epoch starts, from 0 to T: int64."""
        spare = len(self.stream) - 1 - self.per_epoch * self.length
        noise = splitmix64(epochs, self.seed, 0x0FF5E7)
        return (noise % np.uint64(min(spare, self.length) + 1)).astype(np.int64)


class LengthBuckets:
    """Batches of rows of similar length, padded to the length of their bucket.

    Bucket lengths are powers of two and `length`, so that a model is compiled for few shapes. The
    last batch of a bucket may not be full.

    Args:
        sizes: (rows,) tokens of each row; rows of 0 are left out.
        length: the longest bucket, of all longer rows.
        batch_size: B.
        seed: of the order, another in each epoch; None keeps the rows of a bucket in order, from
            the shortest bucket to the longest.
    """

    def __init__(self, sizes: np.ndarray, length: int, batch_size: int, seed: int | None):
        self.batch_size, self.seed = batch_size, seed
        self.lengths = _bucket_lengths(length)
        bucket = np.searchsorted(self.lengths, np.minimum(sizes, length))
        self.members = [
            np.flatnonzero((bucket == i) & (sizes > 0)) for i in range(len(self.lengths))
        ]
        self.counts = np.array([-(-len(members) // batch_size) for members in self.members])
        self.per_epoch = int(self.counts.sum())

    def batch(self, step: int) -> tuple[np.ndarray, int]:
        """The rows of batch `step`, B or fewer, and the length that they are padded to."""
        epoch, number = divmod(step, self.per_epoch)
        if self.seed is not None:
            index = np.array([number])
            number = int(feistel_permutation(index, self.per_epoch, self.seed, epoch)[0])
        ends = np.cumsum(self.counts)
        bucket = int(np.searchsorted(ends, number, side="right"))
        members = self.members[bucket]
        first = (number - int(ends[bucket] - self.counts[bucket])) * self.batch_size
        places = np.arange(first, min(first + self.batch_size, len(members)))
        if self.seed is not None:
            places = feistel_permutation(places, len(members), self.seed + 1 + bucket, epoch)
        return members[places], self.lengths[bucket]


class LengthBucketSampler:
    """Shuffled batches of documents, padded to the length of their bucket.

    In an epoch every document of two tokens or more is seen once; see `LengthBuckets`.

    Args:
        stream: the tokens of a split.
        offsets: (documents,) where each document starts in the stream.
        length: the longest bucket; longer documents are truncated.
        batch_size: B.
        seed: of the order.
        loss_mask: 0 or 1 for each token; targets of 0 get weight 0. None weighs all alike.

    Attributes:
        per_epoch: batches in an epoch.
        num_truncated: documents that are longer than `length`; see `document_sizes`.

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
        self.stream, self.batch_size, self.loss_mask = stream, batch_size, loss_mask
        self.offsets = np.asarray(offsets).astype(np.int64)
        self.sizes, self.num_truncated = document_sizes(stream, self.offsets, length, loss_mask)
        self.buckets = LengthBuckets(self.sizes, length, batch_size, seed)
        self.per_epoch = self.buckets.per_epoch
        if not self.per_epoch:
            raise nothing_to_learn_from(length)

    @property
    def tokens_per_epoch(self) -> int:
        """Padding included."""
        return self.batch_size * int((self.buckets.counts * self.buckets.lengths).sum())

    @property
    def tokens_per_batch(self) -> int:
        """Padding included, on average."""
        return round(self.tokens_per_epoch / self.per_epoch)

    @property
    def utilization(self) -> float:
        """Share of the tokens of an epoch that are not padding."""
        return int(self.sizes.sum()) / self.tokens_per_epoch

    @property
    def num_evaluation_batches(self) -> int:
        return self.per_epoch

    def evaluation_batch(self, index: int, rows: slice = ALL) -> Batch:
        """Like `batch`, of one epoch."""
        return self.batch(index, rows)

    def batch(self, step: int, rows: slice = ALL) -> Batch:
        """Inputs and targets (B, L) int32, weights (B, L) float32; L is the bucket's length."""
        documents, length = self.buckets.batch(step)
        return self._padded(documents[rows], (len(range(self.batch_size)[rows]), length))

    def _padded(self, documents: np.ndarray, shape: tuple[int, int]) -> Batch:
        """Inputs, targets and weights of this shape; rows without a document are padding."""
        inputs, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights = np.zeros(shape, np.float32)
        for row, document in enumerate(documents):
            size, start = int(self.sizes[document]), self.offsets[document : document + 1]
            window = self.stream.windows(start, size + 1)[0]
            inputs[row, :size], targets[row, :size] = window[:-1], window[1:]
            weights[row, :size] = 1
            if self.loss_mask is not None:
                weights[row, :size] = self.loss_mask.windows(start + 1, size)[0]
        return inputs, targets, weights


def document_sizes(
    stream: TokenStream, offsets: np.ndarray, length: int, loss_mask: TokenStream | None
) -> tuple[np.ndarray, int]:
    """How much of each document is learned, and how many documents are truncated.

    Args:
        stream: the tokens of a split.
        offsets: (documents,) int64, where each starts.
        length: the most targets of a document.
        loss_mask: 0 or 1 for each token.

    Returns:
        (documents,) int32 number of targets, one less than of tokens. It is 0 for a truncated
        document of which no target is to be learned.
    """
    sizes = np.diff(offsets, append=len(stream)) - 1
    truncated = np.flatnonzero(sizes > length)
    sizes = np.clip(sizes, 0, length).astype(np.int32)
    if loss_mask is not None:
        for some in np.array_split(truncated, len(truncated) // 1024 + 1):
            learned = loss_mask.windows(offsets[some] + 1, length).any(axis=1)
            sizes[some[~learned]] = 0
    return sizes, len(truncated)


def nothing_to_learn_from(length: int) -> DataError:
    """No document has a size above 0."""
    return DataError(
        f"No document has a token to learn after its first, and among its first {length + 1}; "
        "raise train.sequence_length, or add texts."
    )


def _bucket_lengths(longest: int) -> list[int]:
    """16, 32, ..., and the longest."""
    lengths = []
    length = MIN_BUCKET_LENGTH
    while length < longest:
        lengths.append(length)
        length *= 2
    return [*lengths, longest]


def evaluation_batch(
    stream: TokenStream,
    length: int,
    batch_size: int,
    index: int,
    loss_mask: TokenStream | None = None,
    rows: slice = ALL,
) -> Batch:
    """Batch `index` of a whole split: inputs, targets (B, T) int32, weights (B, T) float32.

    Windows are adjacent: each token but the first is a target exactly once. Padding at the end has
    weight 0, and so have targets outside `loss_mask`.
    """
    windows = range(index * batch_size, (index + 1) * batch_size)[rows]
    inputs = np.zeros((len(windows), length), dtype=np.int32)
    targets = np.zeros((len(windows), length), dtype=np.int32)
    weights = np.zeros((len(windows), length), dtype=np.float32)
    for row, start in enumerate(window * length for window in windows):
        size = min(length, len(stream) - 1 - start)
        if size <= 0:
            break
        position = np.array([start])
        window = stream.windows(position, size + 1)[0]
        inputs[row, :size], targets[row, :size] = window[:-1], window[1:]
        weights[row, :size] = 1.0 if loss_mask is None else loss_mask.windows(position + 1, size)
    return inputs, targets, weights


def num_evaluation_batches(stream: TokenStream, length: int, batch_size: int) -> int:
    """How many batches `evaluation_batch` makes of a whole split."""
    windows = -(-max(0, len(stream) - 1) // length)
    return -(-windows // batch_size)


def feistel_permutation(indices: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """The images of `indices` (int64, below `size`) in the epoch's permutation of range(size).

    A Feistel network on the next even power of two, walked until the result is below `size`
    (Black & Rogaway, 2002): a permutation of any size in constant memory.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    result = indices.astype(np.uint64)
    pending = np.ones(len(result), dtype=bool)
    while pending.any():
        left, right = result[pending] >> np.uint64(half), result[pending] & mask
        for round_ in range(ROUNDS):
            left, right = right, left ^ (splitmix64(right, seed, epoch * ROUNDS + round_) & mask)
        result[pending] = (left << np.uint64(half)) | right
        pending &= result >= size
    return result.astype(np.int64)


def inverse_feistel_permutation(
    images: np.ndarray, size: int, seed: int, epochs: np.ndarray | int
) -> np.ndarray:
    """The indices whose images `feistel_permutation` gives, each in its own epoch: int64."""
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    result = images.astype(np.uint64)
    salts = np.broadcast_to(np.asarray(epochs, np.uint64) * np.uint64(ROUNDS), result.shape)
    pending = np.ones(len(result), dtype=bool)
    while pending.any():
        left, right = result[pending] >> np.uint64(half), result[pending] & mask
        for round_ in reversed(range(ROUNDS)):
            salt = salts[pending] + np.uint64(round_)
            left, right = right ^ (splitmix64(left, seed, salt) & mask), left
        result[pending] = (left << np.uint64(half)) | right
        pending &= result >= size
    return result.astype(np.int64)


def splitmix64(value: np.ndarray | np.uint64, seed: int, salt: int | np.ndarray) -> np.ndarray:
    """A 64-bit hash of (value, seed, salt): SplitMix64's finaliser (Steele et al., 2014)."""
    seeded = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    with np.errstate(over="ignore"):
        key = seeded + np.asarray(salt, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        z = (np.asarray(value, dtype=np.uint64) + key) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
