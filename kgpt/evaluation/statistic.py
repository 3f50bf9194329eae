"""Figures over items, documents or prompts, in a form that can be resampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from kgpt.evaluation.corpus_scores import bleu, chrf, ter

Better = Literal["lower", "higher"]
Formula = Callable[[np.ndarray], np.ndarray]  # sums (..., K) to values (...)
MAX_EXPONENT = 700.0  # exp(710) overflows


def _ratio(sums: np.ndarray) -> np.ndarray:
    """The first sum over the second."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-300)


def _exp_ratio(sums: np.ndarray) -> np.ndarray:
    """A perplexity: exp of the first sum over the second."""
    return np.exp(np.minimum(_ratio(sums), MAX_EXPONENT))


FORMULAS: dict[str, Formula] = {
    "ratio": _ratio,
    "exp_ratio": _exp_ratio,
    "bleu": bleu,
    "chrf": chrf,
    "ter": ter,
}


@dataclass(frozen=True)
class Statistic:
    """A metric as a formula of sums over items, which a bootstrap draws anew.

    Attributes:
        rows: (N, K) float64, what each of N items adds to each of K sums.
        formula: a name in `FORMULAS`, from the sums to the metric.
        better: which values are better; None where neither is.

    Example:

    >>> losses, tokens = [3.0, 1.0], [1, 1]
    >>> Statistic.ratio(losses, tokens, "lower").value
    2.0
    """

    rows: np.ndarray
    formula: str = "ratio"
    better: Better | None = None

    @classmethod
    def ratio(
        cls, numerators: Sequence[float], denominators: Sequence[float], better: Better | None
    ) -> Self:
        """sum(numerators) / sum(denominators), each (N,)."""
        rows = np.stack([np.asarray(numerators), np.asarray(denominators)], axis=1)
        return cls(rows.astype("float64"), "ratio", better)

    @classmethod
    def mean(cls, values: Sequence[float], better: Better | None) -> Self:
        """The mean of a value (N,) of each item."""
        return cls.ratio(values, [1.0] * len(values), better)

    @property
    def value(self) -> float:
        return float(FORMULAS[self.formula](self.rows.sum(axis=0)))

    @property
    def item_values(self) -> np.ndarray:
        """(N,) the metric of each item alone."""
        return FORMULAS[self.formula](self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {"formula": self.formula, "better": self.better, "rows": self.rows.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        rows = np.asarray(values["rows"], dtype="float64")
        return cls(rows.reshape(len(rows), -1), values["formula"], values["better"])
