"""Parallel coordinates: an axis for each option and for the metric, a line for each trial."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kgpt.formatting import NONE, number
from kgpt.lab.sweeps.results import SweepResult, TrialResult
from kgpt.lab.sweeps.space import Parameter, Range, Space, Value


@dataclass(frozen=True)
class CoordinateAxis:
    """An axis of length 1.

    Attributes:
        name: of the option, without its section, or of the metric.
        ticks: labelled places.
        places: of each trial; None where the option is not set.
    """

    name: str
    ticks: list[tuple[float, str]]
    places: list[float | None]


def compared_trials(results: SweepResult) -> list[TrialResult]:
    """The trials with a value where all are compared, the best last."""
    sign = 1 if results.direction == "minimize" else -1
    found = [(sign * t.compared, t.number, t) for t in results.trials if t.compared is not None]
    return [trial for *_, trial in sorted(found, reverse=True, key=lambda one: one[:2])]


def parallel_axes(results: SweepResult, trials: Sequence[TrialResult]) -> list[CoordinateAxis]:
    """The axes of the options that vary, and last that of the metric."""
    axes = [_axis(parameter, trials) for parameter in Space.parse(results.space).parameters]
    values = [trial.compared or 0.0 for trial in trials]
    low, high = min(values), max(values)
    places: list[float | None] = [(value - low) / ((high - low) or 1.0) for value in values]
    axes.append(CoordinateAxis(results.metric, [(0.0, number(low)), (1.0, number(high))], places))
    return axes


def _axis(parameter: Parameter, trials: Sequence[TrialResult]) -> CoordinateAxis:
    key, domain = parameter.key, parameter.domain
    if isinstance(domain, tuple):
        known = [repr(value) for value in domain]
        ends: tuple[Value, ...] = domain
        shares = [i / max(1, len(domain) - 1) for i in range(len(domain))]
    else:
        ends, shares = (domain.low, domain.high), [0.0, 1.0]

    def place(value: Value) -> float:
        if isinstance(domain, Range):
            return _place(domain, float(value or 0))
        return shares[known.index(repr(value))]

    ticks = [(share, _label(value)) for share, value in zip(shares, ends, strict=True)]
    places = [place(one.params[key]) if key in one.params else None for one in trials]
    return CoordinateAxis(key.partition(".")[2], ticks, places)


def _place(domain: Range, value: float) -> float:
    """From 0 at the low end to 1.

    >>> _place(Range(1e-4, 1e-2, log=True), 1e-3), _place(Range(0, 4), 1)
    (0.5, 0.25)
    """
    scale = math.log if domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    return round((scale(value) - low) / (high - low), 12)


def _label(value: Value) -> str:
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
