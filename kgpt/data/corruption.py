"""Corruption of a batch's inputs, as regularization; the targets are left alone.

Token dropout replaces inputs by one fixed token, token replacement by random ones.
"""

from __future__ import annotations

import numpy as np


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

    def __call__(self, inputs: np.ndarray, seed: int, step: int) -> np.ndarray:
        """Corrupted (B, T) inputs: a function of the inputs, the seed and the step alone."""
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        draw = rng.random(inputs.shape, dtype=np.float32)
        random_ids = rng.integers(0, self.vocab_size, inputs.shape, dtype=np.int32)
        masked = np.where(draw < self.dropout, np.int32(self.mask_id), inputs)
        is_replaced = (draw >= self.dropout) & (draw < self.dropout + self.replacement)
        return np.where(is_replaced, random_ids, masked).astype(np.int32)
