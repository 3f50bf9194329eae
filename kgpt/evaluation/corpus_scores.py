"""BLEU, chrF and TER from sacrebleu's counts, which are summed over texts, or over drawn texts."""

from __future__ import annotations

import numpy as np

BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2


def bleu(sums: np.ndarray) -> np.ndarray:
    """BLEU-4 with exponential smoothing (Papineni et al. 2002; Chen and Cherry 2014, method 3).

    Only orders of which there are n-grams count, as in sacrebleu's score of a sentence; a corpus
    has all four.

    Args:
        sums: (..., 10) length, length of the references, matching 1- to 4-grams, all 1- to 4-grams.

    Returns:
        (...) from 0 to 100.
    """
    length, reference = sums[..., 0], sums[..., 1]
    matches, possible = np.split(sums[..., 2:], [BLEU_ORDER], axis=-1)
    orders = possible > 0
    smoothed = np.where(matches > 0, matches, 0.5 ** np.cumsum(matches == 0, axis=-1))
    logs = np.where(orders, np.log(smoothed / np.maximum(possible, 1)), 0)
    precision = np.exp(logs.sum(-1) / np.maximum(orders.sum(-1), 1))
    penalty = np.exp(np.minimum(0, 1 - reference / np.maximum(length, 1)))
    return 100 * penalty * precision * matches.any(-1)


def chrf(sums: np.ndarray) -> np.ndarray:
    """chrF2: F2 of the mean precision and recall of character 1- to 6-grams (Popović 2015).

    Args:
        sums: (..., 18) n-grams of the texts, of the references, and matching, order by order.

    Returns:
        (...) from 0 to 100.
    """
    text, reference, matches = np.moveaxis(sums.reshape(*sums.shape[:-1], CHRF_ORDER, 3), -1, 0)
    orders = (text > 0) & (reference > 0)
    count = np.maximum(orders.sum(-1), 1)
    precision = (orders * matches / np.maximum(text, 1)).sum(-1) / count
    recall = (orders * matches / np.maximum(reference, 1)).sum(-1) / count
    weighted = CHRF_BETA**2 * precision + recall
    return 100 * (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1)


def ter(sums: np.ndarray) -> np.ndarray:
    """Translation edit rate: edits per word of the references (Snover et al. 2006).

    Args:
        sums: (..., 2) edits, and mean words of a text's references.

    Returns:
        (...) in percent; 100 if there are edits and the references have no word.
    """
    edits, words = sums[..., 0], sums[..., 1]
    return 100 * np.where(words > 0, edits / np.maximum(words, 1e-9), edits > 0)
