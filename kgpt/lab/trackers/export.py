"""Runs of kgpt for experiment trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kgpt.config import read_yaml
from kgpt.files import os_errors_as_kgpt
from kgpt.lab.trackers.formats import Tracker, module_of
from kgpt.lab.trackers.tracked_run import BASE, TrackedRun
from kgpt.runs import Run

STATUS = "status"  # the section of an exported configuration that says how far the run came
STATUS_KEYS = {"state", "step", "total_steps", "epoch", "tokens_seen", "backend", "device", "error"}


def export_runs(
    runs: Sequence[Run], tracker: Tracker, folder: Path | None = None, project: str = "kgpt"
) -> list[Path]:
    """Write configuration and metrics of runs as files of a tracker, and return their paths.

    Args:
        folder: the log directory of TensorBoard, where `wandb/` is made, or trackio's databases
            are. When not given, `tensorboard`, the working directory, or where trackio looks.
        project: of W&B or trackio.

    Raises:
        UsageError: the tracker is not installed, or has such a run already.
        KgptError: the files cannot be written.
    """
    module = module_of(tracker)
    if folder is None and tracker == "trackio":
        folder = module.default_folder()
    folder = folder or Path("tensorboard" if tracker == "tensorboard" else ".")
    with os_errors_as_kgpt(f"write to {folder}"):
        return [module.write(tracked(run), folder, project) for run in runs]


def tracked(run: Run) -> TrackedRun:
    """A run of kgpt in the form that trackers' files are written from."""
    status = run.status()
    config = read_yaml(run.path / "run.yaml")
    made = TrackedRun(run.name, config | {STATUS: status.model_dump(include=STATUS_KEYS)})
    made.state = status.state
    for row in run.metrics():
        values = {key: value for key, value in row.items() if key not in BASE}
        made.add_row(row["step"], row["time"], values)
    made.sort_rows()
    return made
