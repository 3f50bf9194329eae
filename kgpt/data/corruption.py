"""InputCorruption on the inputs of a batch; the targets stay true.

Token dropout hides inputs behind one fixed token, token replacement swaps them for random ones.
Both teach the model not to lean on any single token of its context.
"""

from __future__ import annotations

import numpy as np


class InputCorruption:
    """Hides and replaces input tokens with given probabilities.

    Args:
        dropout: probability that an input is hidden.
        replacement: probability that an input becomes a uniformly random token.
        mask_id: the id that hides; the end-of-text token, which means "no context before here".
        vocab_size: V.
    """

    def __init__(self, dropout: float, replacement: float, mask_id: int, vocab_size: int):
        self.dropout, self.replacement = dropout, replacement
        self.mask_id, self.vocab_size = mask_id, vocab_size

    def __call__(self, inputs: np.ndarray, seed: int, step: int) -> np.ndarray:
        """Noisy (B, T) inputs: a function of the inputs, the seed and the step alone."""
        random = np.random.Generator(np.random.Philox(key=[seed, step]))
        chance = random.random(inputs.shape, dtype=np.float32)
        random_ids = random.integers(0, self.vocab_size, inputs.shape, dtype=np.int32)
        noisy = np.where(chance < self.dropout, np.int32(self.mask_id), inputs)
        replaced = (chance >= self.dropout) & (chance < self.dropout + self.replacement)
        return np.where(replaced, random_ids, noisy).astype(np.int32)
