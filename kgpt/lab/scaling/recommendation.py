"""The size and the tokens to train with a budget, and how certain they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from kgpt.config import ModelConfig
from kgpt.errors import UsageError
from kgpt.formatting import count
from kgpt.lab.scaling.family import resize
from kgpt.lab.scaling.law import CONFIDENCE, Observation, ScalingLaw, bootstrap, fit
from kgpt.lab.scaling.training import matmul_parameters

SAMPLES = 200
TOLERANCE = 1.5  # times beyond what was trained is not called extrapolation
MAX_LAYERS = 512


@dataclass(frozen=True)
class Interval:
    """A figure, and where it is with the probability `CONFIDENCE`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Recommendation:
    """What to train with a budget.

    Attributes:
        flops: the budget.
        parameters, tokens: of the lowest loss that it allows, and that loss.
        beyond: how many times outside what was trained the recommendation is, in size, tokens or
            FLOPs, whichever is most; 1 within.
        layers, width: of the model of the family that comes closest, where one is known.
    """

    flops: float
    parameters: Interval
    tokens: Interval
    loss: Interval
    beyond: float
    layers: int | None = None
    width: int | None = None

    @property
    def is_extrapolated(self) -> bool:
        return self.beyond > TOLERANCE


@dataclass(frozen=True)
class ScalingStudy:
    """Runs, the law fitted to them, its coefficients' intervals, and a recommendation."""

    observations: list[Observation]
    law: ScalingLaw
    coefficients: dict[str, Interval]
    recommendation: Recommendation
    confidence: float = CONFIDENCE


def study(
    observations: Sequence[Observation],
    flops: float | None = None,
    extrapolate: bool = False,
    model: ModelConfig | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> ScalingStudy:
    """Fit a law, and recommend what to train.

    Args:
        flops: the budget; that of the largest run when not given.
        extrapolate: allow a recommendation outside what was trained.
        model: whose depth is changed for the recommended model.
        samples: of the bootstrap.

    Raises:
        DataError: the runs are too few.
        UsageError: the recommendation would be outside what was trained, and `extrapolate` is not
            given.
    """
    law = fit(observations)
    laws = bootstrap(observations, law, samples, seed)
    budget = flops or max(one.flops for one in observations)
    found = recommend(observations, law, laws, budget, model)
    if flops is not None and found.is_extrapolated and not extrapolate:
        raise UsageError(
            f"A budget of {flops:.1e} FLOPs asks for {count(found.parameters.value)} parameters "
            f"and {count(found.tokens.value)} tokens, {found.beyond:.1f} times beyond what was "
            "trained; train larger runs, or give --extrapolate."
        )
    coefficients = {
        name: _interval(law, laws, attrgetter(name)) for name in ("E", "A", "B", "alpha", "beta")
    }
    return ScalingStudy(list(observations), law, coefficients, found)


def recommend(
    observations: Sequence[Observation],
    law: ScalingLaw,
    laws: Sequence[ScalingLaw],
    flops: float,
    model: ModelConfig | None = None,
) -> Recommendation:
    """The optimum of a budget by `law`, with intervals by the `laws` of a bootstrap."""
    parameters, tokens = law.optimum(flops)
    member = nearest(model, parameters) if model else None
    return Recommendation(
        flops,
        _interval(law, laws, lambda one: one.optimum(flops)[0]),
        _interval(law, laws, lambda one: one.optimum(flops)[1]),
        _interval(law, laws, lambda one: one.loss(*one.optimum(flops))),
        max(
            _beyond(parameters, [one.parameters for one in observations]),
            _beyond(tokens, [one.tokens for one in observations]),
            _beyond(flops, [one.flops for one in observations]),
        ),
        member.num_layers if member else None,
        member.hidden_dim if member else None,
    )


def nearest(model: ModelConfig, parameters: float) -> ModelConfig:
    """The model of another depth, and width in proportion, whose size is nearest on a log scale."""

    def distance(layers: int) -> float:
        return abs(float(np.log(matmul_parameters(resize(model, layers)) / parameters)))

    layers = 1
    while layers < MAX_LAYERS and distance(layers + 1) < distance(layers):
        layers += 1
    return resize(model, layers)


def _interval(
    law: ScalingLaw, laws: Sequence[ScalingLaw], figure: Callable[[ScalingLaw], float]
) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([figure(one) for one in laws], [tail, 1 - tail])
    return Interval(figure(law), float(low), float(high))


def _beyond(value: float, values: Sequence[float]) -> float:
    """How many times outside the range of `values` it is; 1 within."""
    return max(1.0, value / max(values), min(values) / value)
