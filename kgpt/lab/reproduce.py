"""Train a run again, and compare: what differs here, and at which step the losses part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from kgpt.config import Config
from kgpt.errors import RunError
from kgpt.runs import Run, parent_of

IDENTITY = ("versions", "backend", "device", "processor", "cpus", "system")


@dataclass(frozen=True)
class Reproduction:
    """How the losses of a run and of its repetition compare, where both have logged one.

    Attributes:
        steps: how many were compared.
        first_difference: the first step whose losses differ; None if all are equal.
        max_difference: the greatest absolute difference.
    """

    steps: int
    first_difference: int | None
    max_difference: float

    @property
    def is_equal(self) -> bool:
        """Every loss is the same number."""
        return self.steps > 0 and self.first_difference is None


def environment_changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What is not as it was, as {name: (before, now)}; packages by their names.

    >>> environment_changes({"backend": "jax", "versions": {"keras": "3.15"}},
    ...                     {"backend": "torch", "versions": {"keras": "3.15", "torch": "2"}})
    {'torch': (None, '2'), 'backend': ('jax', 'torch')}
    """
    changes: dict[str, Any] = {}
    for name in IDENTITY:
        before, after = recorded.get(name), now.get(name)
        if isinstance(before, dict) or isinstance(after, dict):
            old, new = before or {}, after or {}
            for key in dict.fromkeys([*old, *new]):
                if old.get(key) != new.get(key):
                    changes[key] = old.get(key), new.get(key)
        elif before != after:
            changes[name] = before, after
    return changes


def changes_since(run: Run) -> dict[str, Any]:
    """What differs here from where a run was started, data set included.

    Raises `RunError` if the run does not say where it was trained, as those of earlier versions.
    """
    from kgpt.data.shards import TokenDataset
    from kgpt.training.environment import environment

    starts = run.environments()
    if not starts:
        raise RunError(
            f"The run {run.name} does not say where it was trained; it is of an earlier version."
        )
    changes = environment_changes(starts[0], environment())
    for start in starts[1:]:
        for name, change in environment_changes(starts[0], start).items():
            changes[f"{name}, when it was resumed"] = change
    recorded, folder = run.data(), run.data_path()
    if recorded is not None and folder is not None:
        now = TokenDataset(folder).manifest.content_sha256
        if now != recorded.sha256:
            changes["data set"] = recorded.sha256[:8], now[:8]
    return changes


def reproduce(run: Run, target: Run, console: Console, quiet: bool = False) -> Reproduction | None:
    """Train `run` again as `target`, whose lock the caller holds, or go on with it; and compare.

    Returns None if it was stopped before its end.

    Raises `RunError`, `DataError`: as of a run that is started.
    """
    from kgpt.training.task import make_task
    from kgpt.training.trainer import train

    config = Config.load(str(run.path / "run.yaml"))
    folder = config.data.dir or run.data_path()
    config = config.model_copy(update={"data": config.data.model_copy(update={"dir": str(folder)})})
    parent = parent_of(run)
    fork_of = f"{parent.path}@{parent.step}" if parent and not target.is_taken else None
    result = train(make_task(config), target, target.is_taken, console, quiet, fork_of)
    return compare_losses(run, target) if result.state == "finished" else None


def compare_losses(run: Run, again: Run) -> Reproduction:
    """The logged losses of two runs, step by step, training and validation."""
    first, second = _losses(run), _losses(again)
    common = [key for key in first if key in second]
    differences = {key: abs(first[key] - second[key]) for key in common}
    parted = [step for (step, _), difference in differences.items() if difference != 0]
    return Reproduction(
        len({step for step, _ in common}),
        min(parted, default=None),
        max(differences.values(), default=0.0),
    )


def _losses(run: Run) -> dict[tuple[int, str], float]:
    return {
        (row["step"], name): row[name]
        for row in run.metrics()
        for name in ("loss", "val_loss")
        if name in row
    }
