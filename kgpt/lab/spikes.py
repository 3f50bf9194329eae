"""Spikes of a run: steps whose loss or gradient norm is far above those before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ROWS = 20  # of metrics before a spike, which it is compared with
DEVIATIONS = 6.0  # above their median, in median absolute deviations
LEAST_DEVIATION = 0.01  # of the median, where rows hardly differ


@dataclass(frozen=True)
class Spike:
    """A logged step whose loss or gradient norm is far above those before it."""

    step: int
    metric: str
    value: float
    usual: float


def find_spikes(rows: Sequence[dict[str, Any]]) -> list[Spike]:
    """The rows of metrics whose loss or gradient norm is far above the median of those before.

    >>> usual = [{"step": n, "loss": 2 + n % 3 / 100} for n in range(1, 30)]
    >>> find_spikes([*usual, {"step": 30, "loss": 4.0}])
    [Spike(step=30, metric='loss', value=4.0, usual=2.01)]
    """
    found = []
    for metric in ("loss", "grad_norm"):
        some = [row for row in rows if isinstance(row.get(metric), float)]
        for i in range(ROWS // 2, len(some)):
            before = [row[metric] for row in some[max(0, i - ROWS) : i]]
            usual = statistics.median(before)
            deviation = statistics.median(abs(value - usual) for value in before)
            value = some[i][metric]
            if value > usual + DEVIATIONS * max(deviation, LEAST_DEVIATION * abs(usual)):
                found.append(Spike(some[i]["step"], metric, value, usual))
    return sorted(found, key=lambda spike: spike.step)
