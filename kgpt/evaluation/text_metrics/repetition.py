"""How much a text repeats itself, as generated text does when it degenerates."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from kgpt.evaluation.text_metrics.words import ngrams


def rep_n(tokens: Sequence[str], n: int = 4) -> float:
    """The share of n-grams that repeat an earlier one; 0 for fewer than `n` tokens.

    Source: seq-rep-n of Welleck et al. 2020, "Neural Text Generation With Unlikelihood Training".

    >>> rep_n("a b c d a b c d".split())  # 5 4-grams, 4 of them different
    0.2
    """
    found = ngrams(tokens, n)
    return (len(found) - len(set(found))) / len(found) if found else 0.0


def longest_repeat(tokens: Sequence[str]) -> int:
    """Length in tokens of the longest run that occurs at two places, which may overlap.

    Runs of 2^k tokens are ranked by doubling, as for a suffix array, and the length is found by
    bisection: O(n log² n), also for a text that is one loop.

    >>> longest_repeat("the cat sat , the cat sat down".split())
    3
    """
    ids: dict[str, int] = {}
    ranks = [np.array([ids.setdefault(token, len(ids)) for token in tokens], "int64")]
    while 2 ** len(ranks) <= len(tokens):
        ranks.append(_joined(ranks[-1], 2 ** (len(ranks) - 1)))

    def is_unique(length: int) -> bool:
        exponent = length.bit_length() - 1
        run = _joined(ranks[exponent], length - 2**exponent)
        return bool(run.max() + 1 == len(run))

    return bisect_left(range(1, len(tokens) + 1), True, key=is_unique)


def _joined(ranks: np.ndarray, shift: int) -> np.ndarray:
    """Ranks of the runs that a run and the one `shift` tokens later cover together.

    `ranks` numbers the runs of one length by content, one a start: (S,); returned are (S - shift,).
    """
    pairs = ranks[: len(ranks) - shift] * (len(ranks) + 1) + ranks[shift:]
    return np.unique(pairs, return_inverse=True)[1]
