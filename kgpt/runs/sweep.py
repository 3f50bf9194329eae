"""Trials: runs that belong to a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from kgpt.files import write_json
from kgpt.runs.run import Run


class SweepTrial(BaseModel):
    """The contents of `sweep.json`: of which sweep a run is a trial."""

    sweep: str  # its name
    path: str  # absolute
    number: int
    params: dict[str, Any]  # the options that the sweep has set

    def __str__(self) -> str:
        params = ", ".join(f"{key} {value}" for key, value in self.params.items())
        return f"{self.sweep}, trial {self.number}: {params}"


def trial_of(run: Run) -> SweepTrial | None:
    """Which trial of which sweep a run is; None if it is of none."""
    try:
        return SweepTrial.model_validate_json((run.path / "sweep.json").read_bytes())
    except (OSError, ValueError):
        return None


def trials_together(runs: Sequence[Run]) -> list[Run]:
    """The runs in their order, but the trials of a sweep by number, where the first of them is."""
    groups: dict[str, list[tuple[int, Run]]] = {}
    for run in runs:
        trial = trial_of(run)
        number, group = (trial.number, trial.path) if trial else (0, f"run {run.path}")
        groups.setdefault(group, []).append((number, run))
    return [run for group in groups.values() for _, run in sorted(group, key=lambda one: one[0])]


def write_trial(run: Run, trial: SweepTrial) -> None:
    """Say that `run`, whose directory need not exist, is a trial."""
    run.path.mkdir(parents=True, exist_ok=True)
    write_json(run.path / "sweep.json", trial.model_dump())
