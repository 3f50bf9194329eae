"""Batches of texts with labels for `model.fit`: padded at the end, few different lengths."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kgpt.data.corruption import InputCorruption
from kgpt.data.sampler import MIN_BUCKET_LENGTH, feistel_permutation
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer

SORTED_BATCHES = 16  # the texts of so many are sorted by length and shared out among them


class LabelledDataset(keras.utils.PyDataset):
    """Batches of a training run, from `start_batch` on: token ids (B, L) int32 and their targets.

    In each epoch every text is seen once. Texts of similar length share a batch, so that little is
    padding, and L is a power of two or `length`, so that few shapes are compiled. A batch is a
    function of the seed and its number alone.

    Args:
        token_ids: of each text, at least one of them.
        targets: (N,) or (N, labels).
        batch_size: B.
        length: the largest L; longer texts are truncated at their end.
        pad_id: fills the batch up.
        num_batches: how many batches there are.
        seed: of the order.
        start_batch: number of the first; not 0 when a run is resumed.
        corruption: of the token ids, padding left out.
    """

    def __init__(
        self,
        token_ids: Sequence[Sequence[int]],
        targets: np.ndarray,
        batch_size: int,
        length: int,
        pad_id: int,
        num_batches: int,
        seed: int = 0,
        start_batch: int = 0,
        corruption: InputCorruption | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not len(token_ids):
            raise DataError("There are no texts to learn from.")
        self.token_ids, self.targets, self.pad_id = token_ids, targets, pad_id
        self.batch_size, self.length, self.seed = batch_size, length, seed
        self._num_batches, self.start_batch = num_batches, start_batch
        self.corruption = corruption
        self._sorted = functools.lru_cache(2)(self._sort)

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        number = self.start_batch + index
        group, place = divmod(number, SORTED_BATCHES)
        chosen = self._sorted(group)[place]
        rows = [self.token_ids[i] for i in chosen.tolist()]
        ids = pad_batch(rows, self.length, self.pad_id)
        if self.corruption is not None:
            corrupted = self.corruption(ids, self.seed, number)
            ids = np.where(ids == self.pad_id, ids, corrupted)
        return ids, self.targets[chosen]

    def _sort(self, group: int) -> np.ndarray:
        """The texts of a group of batches, (SORTED_BATCHES, B), in the order of the batches."""
        count, size = SORTED_BATCHES * self.batch_size, len(self.token_ids)
        epochs, places = np.divmod(np.arange(count, dtype=np.int64) + group * count, size)
        texts = np.empty(count, np.int64)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            texts[rows] = feistel_permutation(places[rows], size, self.seed, epoch)
        lengths = np.array([len(self.token_ids[i]) for i in texts.tolist()])
        batches = texts[np.argsort(lengths, kind="stable")].reshape(SORTED_BATCHES, -1)
        order = feistel_permutation(np.arange(SORTED_BATCHES), SORTED_BATCHES, self.seed + 1, group)
        return batches[order]


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole texts, after the BOS ids; an empty text is one token."""
    bos, empty = tokenizer.bos_ids, [tokenizer.eos_id or 0]
    return [[*bos, *ids] or empty for ids in tokenizer.encode_batch(texts)]


def evaluation_batches(
    token_ids: Sequence[Sequence[int]], batch_size: int, length: int, pad_id: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All texts once: their numbers (at most B) and token ids (B, L), sorted by length.

    Rows beyond the last text are padding.
    """
    order = np.argsort([len(ids) for ids in token_ids], kind="stable")
    batches = []
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        rows = [token_ids[i] for i in numbers.tolist()] + [[pad_id]] * (batch_size - len(numbers))
        batches.append((numbers, pad_batch(rows, length, pad_id)))
    return batches


def pad_batch(rows: Sequence[Sequence[int]], length: int, pad_id: int) -> np.ndarray:
    """Token ids (B, L) int32, L being the bucket of the longest row; see `LabelledDataset`."""
    longest = max(map(len, rows))
    bucket = MIN_BUCKET_LENGTH
    while bucket < longest:
        bucket *= 2
    batch = np.full((len(rows), min(bucket, length)), pad_id, np.int32)
    for row, ids in enumerate(rows):
        kept = ids[:length]
        batch[row, : len(kept)] = kept
    return batch
