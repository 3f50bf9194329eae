"""A trial of a sweep, as its record has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kgpt.lab.sweeps.space import Params

TrialState = Literal["running", "complete", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """A set of values that is tried.

    Attributes:
        number: from 0.
        params: the values, by option.
        state: "running" is also a trial that is paused.
        values: the best of the metric up to each step at which it was paused or ended.
        error: why it failed or was pruned by hand.
    """

    number: int
    params: Params
    state: TrialState = "running"
    values: dict[int, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def step(self) -> int:
        """The last step with a value; 0 for none."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The best of the metric; None if it has none yet."""
        return self.values.get(self.step)

    def value_at(self, step: int) -> float | None:
        """The best of the metric up to a step, as far as it is known."""
        known = [recorded for recorded in self.values if recorded <= step]
        return self.values[max(known)] if known else None
