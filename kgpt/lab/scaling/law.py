"""The loss as a function of parameters and tokens, fitted to runs (Hoffmann et al., 2022).

L(N, D) = E + A / N**alpha + B / D**beta, by approach 3 of "Training Compute-Optimal Large Language
Models" (arxiv.org/abs/2203.15556): the Huber loss of residuals of log L, from many starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgpt.errors import DataError, UsageError

HUBER_DELTA = 1e-2  # in log L: how far losses of small runs scatter with the seed; 1e-3 there
CONFIDENCE = 0.9
MIN_SIZES, MIN_DURATIONS, MIN_RUNS = 3, 3, 6
STARTS = tuple(itertools.product((0.5, 0.9), (0.3, 0.8), (0.3, 0.8)))  # E / min L, a, b
BOUNDS = ([-15.0, -15.0, -15.0, 0.01, 0.01], [5.0, 5.0, 5.0, 3.0, 3.0])
Array = np.ndarray


@dataclass(frozen=True)
class Observation:
    """A run: how large, how long, how good.

    Attributes:
        parameters: N, the weights that take part in matrix products.
        tokens: D, that it was trained on.
        loss: on the validation set, at the end.
    """

    run: str
    parameters: float
    tokens: float
    loss: float

    @property
    def flops(self) -> float:
        """6 N D, without attention."""
        return 6.0 * self.parameters * self.tokens


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N**alpha + B / D**beta.

    >>> law = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    >>> round(law.loss(70e9, 1.4e12), 2)
    1.94
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The loss of a model of this size after this many tokens."""
        return float(self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of the lowest loss that 6 N D = `flops` allow.

        >>> law = ScalingLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
        >>> [f"{value:.1e}" for value in law.optimum(5.76e23)]
        ['3.2e+10', '3.0e+12']
        """
        both = self.alpha + self.beta
        ratio = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both)
        parameters = ratio * (flops / 6) ** (self.beta / both)
        return float(parameters), float(flops / 6 / parameters)


def fit(observations: Sequence[Observation]) -> ScalingLaw:
    """The law that fits runs best.

    Raises:
        DataError: they are too few: below 6 runs of 3 sizes and 3 numbers of tokens.
        UsageError: scipy is not installed.
    """
    check(observations)
    problem = _Problem(observations)
    starts = [problem.start(*start) for start in STARTS]
    found = min((problem.solve(start, problem.log_loss) for start in starts), key=lambda x: x.cost)
    return problem.law(found.x)


def bootstrap(
    observations: Sequence[Observation], law: ScalingLaw, samples: int = 200, seed: int = 0
) -> list[ScalingLaw]:
    """Laws fitted to losses drawn anew: those of `law` with its residuals, in another order.

    The residuals of log L are drawn with replacement, enlarged by sqrt(n / (n - 5)) for the five
    coefficients that were fitted to them, and as Student's t is wider than the normal distribution
    for intervals of `CONFIDENCE`.
    """
    from scipy.stats import norm, t

    problem = _Problem(observations)
    best = problem.coefficients(law)
    predicted = problem.predict(best)
    residuals = problem.log_loss - predicted
    runs, free = len(residuals), len(residuals) - len(best)
    wider = t.ppf(0.5 + CONFIDENCE / 2, free) / norm.ppf(0.5 + CONFIDENCE / 2)
    residuals = (residuals - residuals.mean()) * np.sqrt(runs / free) * wider
    rng = np.random.default_rng(seed)
    draws = (rng.choice(residuals, runs) for _ in range(samples))
    return [problem.law(problem.solve(best, predicted + drawn).x) for drawn in draws]


def check(observations: Sequence[Observation]) -> None:
    """Raise `DataError` if five coefficients cannot be fitted to the runs."""
    sizes = len({one.parameters for one in observations})
    durations = len({round(np.log(one.tokens), 2) for one in observations})
    if sizes < MIN_SIZES or durations < MIN_DURATIONS or len(observations) < MIN_RUNS:
        raise DataError(
            f"{len(observations)} runs of {sizes} sizes and {durations} numbers of tokens are too "
            f"few for a scaling law; train at least {MIN_RUNS} runs of {MIN_SIZES} sizes and "
            f"{MIN_DURATIONS} numbers of tokens."
        )


class _Problem:
    """Least squares in log E, log A', log B', alpha, beta.

    N and D are divided by their geometric means, so that A' and B' hardly depend on the exponents.
    """

    def __init__(self, observations: Sequence[Observation]):
        log_n = np.log([one.parameters for one in observations])
        log_d = np.log([one.tokens for one in observations])
        self.log_loss = np.log([one.loss for one in observations])
        self.mean_n, self.mean_d = log_n.mean(), log_d.mean()
        self.log_n, self.log_d = log_n - self.mean_n, log_d - self.mean_d

    def start(self, share: float, alpha: float, beta: float) -> Array:
        """Coefficients with which E is a share of the lowest loss."""
        lowest, mean = np.exp(self.log_loss.min()), np.exp(self.log_loss.mean())
        rest = np.log(max(mean - share * lowest, 1e-3) / 2)
        return np.array([np.log(share * lowest), rest, rest, alpha, beta])

    def solve(self, start: Array, log_loss: Array) -> Any:
        try:
            from scipy.optimize import least_squares
        except ImportError:
            raise UsageError(
                'A scaling law is fitted by scipy; `pip install "kgpt[scaling]"` brings it.'
            ) from None
        start = np.clip(start, BOUNDS[0], BOUNDS[1])
        return least_squares(
            lambda x: self.predict(x) - log_loss, start, jac=self.jacobian, bounds=BOUNDS,
            loss="huber", f_scale=HUBER_DELTA, max_nfev=500,
        )  # fmt: skip

    def predict(self, x: Array) -> Array:
        """log L of each run (R,)."""
        return np.asarray(np.logaddexp.reduce(self._terms(x), axis=0))

    def jacobian(self, x: Array) -> Array:
        """The derivatives of log L (R, 5)."""
        terms = self._terms(x)
        shares = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        return np.stack([*shares, -shares[1] * self.log_n, -shares[2] * self.log_d], axis=1)

    def _terms(self, x: Array) -> Array:
        """log E, log A / N**alpha and log B / D**beta of each run (3, R)."""
        e, a, b, alpha, beta = x
        return np.stack(
            [np.full_like(self.log_n, e), a - alpha * self.log_n, b - beta * self.log_d]
        )

    def law(self, x: Array) -> ScalingLaw:
        e, a, b, alpha, beta = map(float, x)
        scale_n, scale_d = a + alpha * self.mean_n, b + beta * self.mean_d
        return ScalingLaw(
            float(np.exp(e)), float(np.exp(scale_n)), float(np.exp(scale_d)), alpha, beta
        )

    def coefficients(self, law: ScalingLaw) -> Array:
        a = np.log(law.A) - law.alpha * self.mean_n
        b = np.log(law.B) - law.beta * self.mean_d
        return np.array([np.log(law.E), a, b, law.alpha, law.beta])
