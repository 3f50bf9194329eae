"""What the run of a trial has come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kgpt.config import Config, SweepConfig
from kgpt.runs import Run, State


@dataclass(frozen=True)
class Outcome:
    """Where a trial is paused or has ended.

    Attributes:
        step: the last one.
        value: the best of the metric; None if it has none that is finite.
        is_end: whether the run goes on no more.
        error: why there is no value.
    """

    step: int
    value: float | None
    is_end: bool = False
    error: str | None = None


def read_outcome(
    run: Run, config: Config, sweep: SweepConfig, stop: int, is_stopped: bool = False
) -> Outcome | None:
    """The outcome of a run that was to be trained up to a step; None if it is not yet there.

    A checkpoint says where a run is, also of one that was killed.

    Args:
        config: of the run.
        is_stopped: it goes on no more, wherever it is.
    """
    saved = max(run.checkpoint_steps(), default=0)
    is_end = is_stopped or run.status().state == "finished"
    if saved < stop and not is_end:
        return None
    step = min(saved, stop)
    rows = [row for row in run.metrics() if row["step"] <= step and _is_due(row, config, step)]
    values = [row[sweep.metric] for row in rows if sweep.metric in row]
    finite = [float(value) for value in values if math.isfinite(value)]
    best = min if sweep.direction == "minimize" else max
    return Outcome(
        step,
        best(finite, default=None),
        is_end or step >= config.train.max_steps,
        None if finite else _missing(sweep.metric, values, rows),
    )


def mend_status(run: Run, outcome: Outcome) -> None:
    """Say that a run has stopped or ended, where it was killed before it could say so itself."""
    status = run.status()
    if status.is_dead:
        state: State = "finished" if outcome.is_end else "stopped"
        run.write_status(status.model_copy(update={"state": state, "step": outcome.step}))


def _is_due(row: dict[str, Any], config: Config, last: int) -> bool:
    """Whether a row is logged whatever the steps are at which a run was resumed."""
    every = config.train.log_every
    return "val_loss" in row or row["step"] in (1, last) or row["step"] % every == 0


def _missing(metric: str, values: list[Any], rows: list[dict[str, Any]]) -> str:
    if values:
        return f"its {metric} was never finite"
    known = ", ".join(sorted({key for row in rows for key in row} - {"step", "time"})) or "none"
    return f"it has logged no {metric}; its metrics are {known}"
