"""Corruption of a batch's inputs, as regularization; the targets are left alone.

Token dropout replaces inputs by one fixed token, token replacement by random ones.
"""

from __future__ import annotations

import numpy as np

from kgpt.data.sampler import ALL


class InputCorruption:
    """Masks and replaces input tokens with given probabilities.

    Args:
        dropout: probability that an input becomes `mask_id`.
        replacement: probability that an input becomes a uniformly random token.
        mask_id: such as the end-of-text token, which means "no context before here".
        vocab_size: V.
    """

    def __init__(self, dropout: float, replacement: float, mask_id: int, vocab_size: int):
        self.dropout, self.replacement = dropout, replacement
        self.mask_id, self.vocab_size = mask_id, vocab_size

    def __call__(
        self,
        inputs: np.ndarray,
        seed: int,
        step: int,
        batch_size: int | None = None,
        rows: slice = ALL,
    ) -> np.ndarray:
        """Corrupted inputs: a function of the batch, the seed and the step alone.

        Args:
            inputs: (B, T), or `rows` of them.
            batch_size: B; by default `inputs` are the whole batch.
        """
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        shape = (batch_size or len(inputs), *inputs.shape[1:])
        draw = rng.random(shape, dtype=np.float32)[rows]
        random_ids = rng.integers(0, self.vocab_size, shape, dtype=np.int32)[rows]
        masked = np.where(draw < self.dropout, np.int32(self.mask_id), inputs)
        is_replaced = (draw >= self.dropout) & (draw < self.dropout + self.replacement)
        return np.where(is_replaced, random_ids, masked).astype(np.int32)
