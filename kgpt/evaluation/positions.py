"""Loss by position: how much a model gains from the tokens before the one that it predicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_BINS = 20  # by the number of tokens before: 1, 2 and 3, 4 to 7, ..., 2**19 and more


def by_position(losses: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(..., 2, P) sums of the losses of windows' targets, and of their weights, by position.

    Args:
        losses, weights: (..., T) the first target has one token before it.

    >>> by_position(np.array([3.0, 2.0, 1.0]), np.array([1.0, 1.0, 1.0]))[:, :3].tolist()
    [[3.0, 3.0, 0.0], [1.0, 2.0, 0.0]]
    """
    starts = [2**bin - 1 for bin in range(NUM_BINS) if 2**bin <= losses.shape[-1]]
    both = np.stack([losses * weights, weights], axis=-2)  # (..., 2, T)
    found = np.zeros((*both.shape[:-1], NUM_BINS))
    if starts:
        found[..., : len(starts)] = np.add.reduceat(both, starts, axis=-1)
    return found


def loss_by_position(documents: Sequence[np.ndarray]) -> list[tuple[int, float]]:
    """The least number of tokens before, and the mean loss, of each bin that has targets.

    Args:
        documents: (2, P) of each, as of `by_position`.
    """
    if not documents:
        return []
    sums, counts = np.sum(documents, axis=0)
    return [(2**bin, float(sums[bin] / counts[bin])) for bin in np.flatnonzero(counts).tolist()]
