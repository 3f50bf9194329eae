"""Which tokens make the batch of a step: a pure function of (seed, step), in plain NumPy.

Exact resume, deterministic tests and many-host sharding follow from it: nothing is remembered
between batches.

An epoch cuts the token stream, from a random offset on, into windows side by side, and visits them
in random order: every token is seen once an epoch, and windows differ from epoch to epoch.
"""

from __future__ import annotations

import numpy as np

from kgpt.data.corruption import InputCorruption
from kgpt.data.shards import TokenStream
from kgpt.errors import DataError

ROUNDS = 4  # of the Feistel network; four make a permutation that looks random


class PackedSampler:
    """Shuffled training windows.

    Args:
        stream: the tokens.
        length: T, tokens in a training sequence; a window has one more, for the last target.
        batch_size: B.
        seed: of the order and the noise.
        noise: what is done to the inputs; None leaves them as they are.
        loss_mask: 0 or 1 for each token; targets of 0 get weight 0. None counts all alike.
    """

    def __init__(
        self,
        stream: TokenStream,
        length: int,
        batch_size: int,
        seed: int,
        noise: InputCorruption | None = None,
        loss_mask: TokenStream | None = None,
    ):
        self.stream, self.length, self.batch_size, self.seed = stream, length, batch_size, seed
        self.noise, self.loss_mask = noise, loss_mask
        # One window less than fit, so that any offset below T leaves room.
        self.per_epoch = (len(stream) - 1) // length - 1
        if self.per_epoch < 1:
            if len(stream) <= length:
                raise DataError(
                    f"The training text has {len(stream)} tokens, too few for one sequence of "
                    f"{length}; add text, or lower model.max_length."
                )
            self.per_epoch = 1

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """Inputs and targets of `step`, each (B, T) int32, and weights where there are some."""
        number = np.arange(self.batch_size, dtype=np.int64) + step * self.batch_size
        epoch, place = np.divmod(number, self.per_epoch)
        starts = np.empty(self.batch_size, dtype=np.int64)
        for this in np.unique(epoch):
            rows = epoch == this
            order = feistel_permutation(place[rows], self.per_epoch, self.seed, int(this))
            starts[rows] = order * self.length + self._offset(int(this))
        window = self.stream.windows(starts, self.length + 1)
        inputs, targets = window[:, :-1], window[:, 1:]
        if self.noise is not None:
            inputs = self.noise(inputs, self.seed, step)
        if self.loss_mask is None:
            return inputs, targets
        return inputs, targets, self.loss_mask.windows(starts + 1, self.length).astype(np.float32)

    def _offset(self, epoch: int) -> int:
        spare = len(self.stream) - 1 - self.per_epoch * self.length
        return int(
            splitmix64(np.uint64(epoch), self.seed, 0x0FF5E7)
            % np.uint64(min(spare, self.length) + 1)
        )


def evaluation_batch(
    stream: TokenStream,
    length: int,
    batch_size: int,
    index: int,
    loss_mask: TokenStream | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Batch `index` of a whole split: inputs, targets (B, T) int32, weights (B, T) float32.

    PackedSampler lie side by side; each token but the first is a target exactly once. What the last
    batch has too much is padding, of weight 0; so have targets that are not `loss_mask`.
    """
    inputs = np.zeros((batch_size, length), dtype=np.int32)
    targets = np.zeros((batch_size, length), dtype=np.int32)
    weights = np.zeros((batch_size, length), dtype=np.float32)
    for row in range(batch_size):
        start = (index * batch_size + row) * length
        size = min(length, len(stream) - 1 - start)
        if size <= 0:
            break
        place = np.array([start])
        window = stream.windows(place, size + 1)[0]
        inputs[row, :size], targets[row, :size] = window[:-1], window[1:]
        weights[row, :size] = 1.0 if loss_mask is None else loss_mask.windows(place + 1, size)
    return inputs, targets, weights


def num_evaluation_batches(stream: TokenStream, length: int, batch_size: int) -> int:
    """How many batches `evaluation_batch` needs for the whole of a split."""
    windows = -(-max(0, len(stream) - 1) // length)
    return -(-windows // batch_size)


def feistel_permutation(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where `places` (int64, below `size`) go in the epoch's random order of range(size).

    A Feistel network on the next even power of two, walked until the result is below `size`
    (Black & Rogaway, 2002): a permutation of any size that needs no memory.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    result = places.astype(np.uint64)
    todo = np.ones(len(result), dtype=bool)
    while todo.any():
        left, right = result[todo] >> np.uint64(half), result[todo] & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (splitmix64(right, seed, epoch * ROUNDS + turn) & mask)
        result[todo] = (left << np.uint64(half)) | right
        todo &= result >= size
    return result.astype(np.int64)


def splitmix64(value: np.ndarray | np.uint64, seed: int, salt: int) -> np.ndarray:
    """A 64-bit hash of (value, seed, salt): SplitMix64's finaliser (Steele et al., 2014)."""
    key = (seed * 0x9E3779B97F4A7C15 + salt * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    with np.errstate(over="ignore"):
        z = (np.asarray(value, dtype=np.uint64) + np.uint64(key)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
