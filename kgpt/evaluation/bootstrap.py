"""How sure a figure is, and a difference between two models: the bootstrap (Efron, 1979).

Items, documents or prompts, are drawn with replacement, as many as there are, and the figure is
computed of each draw. A percentile interval holds the middle of what is found. The comparison of
two models is paired: it draws the same items of both (Koehn, 2004, for BLEU).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kgpt.errors import UsageError
from kgpt.evaluation.result import Estimate
from kgpt.evaluation.statistic import FORMULAS, Better, Statistic

RESAMPLES = 2000
CONFIDENCE = 0.95
COUNTS_AT_ONCE = 1 << 22  # counts of items in memory


@dataclass(frozen=True)
class Difference:
    """B - A of a metric.

    Attributes:
        estimate: the difference and its confidence interval.
        p_value: two-sided, of the hypothesis that there is none.
        better: which values of the metric are better.
    """

    estimate: Estimate
    p_value: float
    better: Better | None

    @property
    def winner(self) -> str | None:
        """ "A" or "B" if zero lies outside the interval and one is better; None otherwise."""
        low, high = self.estimate.low, self.estimate.high
        if self.better is None or low <= 0 <= high:
            return None
        return "B" if (low > 0) == (self.better == "higher") else "A"


def estimate(
    statistic: Statistic,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """The metric with its percentile interval; an interval of one item is its value."""
    found = _resampled(statistic, resamples, seed)
    return Estimate(statistic.value, *_interval(found, confidence))


def paired_difference(
    a: Statistic,
    b: Statistic,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Difference:
    """B - A, drawing the same items of both.

    Raises:
        UsageError: they do not have the same number of items.
    """
    if len(a.rows) != len(b.rows):
        raise UsageError(
            f"The models were evaluated on {len(a.rows)} and {len(b.rows)} items; evaluate both "
            "on the same data."
        )
    found = _resampled(b, resamples, seed) - _resampled(a, resamples, seed)
    value = b.value - a.value
    tail = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (resamples + 1))  # never 0 (Davison and Hinkley, 1997)
    return Difference(Estimate(value, *_interval(found, confidence)), p_value, b.better)


def _interval(found: np.ndarray, confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the values found (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(found, (tail, 1 - tail))
    return float(low), float(high)


def _resampled(statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
    """The metric of each draw: (R,)."""
    sums = [counts @ statistic.rows for counts in _draws(len(statistic.rows), resamples, seed)]
    return FORMULAS[statistic.formula](np.concatenate(sums))


def _draws(items: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each item is in each draw, a part of the draws at a time: (r, N).

    The same for the same seed and number of items.
    """
    if items == 0:
        raise UsageError("There is nothing to evaluate: give at least one document or prompt.")
    random = np.random.default_rng(seed)
    at_once = max(1, COUNTS_AT_ONCE // items)
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        yield random.multinomial(items, np.full(items, 1 / items), size=size).astype("float64")
