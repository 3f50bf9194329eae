"""Find runs and their checkpoints by name."""

from __future__ import annotations

import os
from pathlib import Path

from kgpt.errors import RunError, UsageError
from kgpt.runs.run import Run

MAX_NAME_BYTES = 200  # of a run: file systems allow 255


def runs_folder() -> Path:
    """The directory of all runs: `KGPT_RUNS`, or ./runs."""
    return Path(os.environ.get("KGPT_RUNS", "runs"))


def all_runs(folder: Path | None = None) -> list[Run]:
    """Every run in `folder`, the most recently modified first."""
    folder = folder or runs_folder()
    found = [Run(path.parent) for path in folder.glob("*/run.yaml")]
    return sorted(found, key=lambda run: run.last_modified, reverse=True)


def find_run(name: str) -> Run:
    """The existing run called `name`, or in the directory `name`; a `RunError` if there is none."""
    for path in (Path(name), runs_folder() / name):
        if Run(path).exists:
            return Run(path)
    known = ", ".join(run.name for run in all_runs()) or "none yet"
    raise RunError(
        f"There is no run {name[:80]!r} in {runs_folder()}; the runs there are: {known}."
    )


def new_run(name: str) -> Run:
    """The run called `name`, whose directory need not exist."""
    if not name or name != Path(name).name or name.startswith("."):
        raise UsageError(f"{name!r} cannot name a run; use letters, digits, '-', '_' and '.'.")
    if len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise UsageError(f"A run's name has at most {MAX_NAME_BYTES} bytes; shorten it.")
    return Run(runs_folder() / name)


def resolve_model(source: str) -> Path:
    """The model directory for a directory, a run name (best checkpoint) or `run@step`."""
    if os.path.isfile(os.path.join(source, "config.json")):
        return Path(source)
    name, _, step = source.partition("@")
    if not Run(Path(name)).exists and os.path.isdir(name) and not step:
        raise UsageError(f"{source} holds no config.json, so it is not a model directory.")
    run = find_run(name)
    steps = run.checkpoint_steps()
    if step:
        if not step.isdigit() or int(step) not in steps:
            known = ", ".join(map(str, steps)) or "none"
            raise RunError(f"The run {name} has no checkpoint {step}; it has: {known}.")
        return run.checkpoint_path(int(step))
    chosen = run.pointer("best") or run.pointer("latest") or (steps[-1] if steps else None)
    if chosen is None:
        raise RunError(f"The run {name} has no checkpoint yet; wait for one, or train longer.")
    return run.checkpoint_path(chosen)
