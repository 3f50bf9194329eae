"""Find runs and their checkpoints by name."""

from __future__ import annotations

import os
from pathlib import Path

from kgpt.errors import RunError, UsageError
from kgpt.runs.run import Run

MODEL_FILES = ("config.json", "adapter_config.json")  # either makes a folder a model argument
MAX_NAME_BYTES = 200  # of a run: file systems allow 255


def runs_folder() -> Path:
    """The directory of all runs: `KGPT_RUNS`, or ./runs."""
    return Path(os.environ.get("KGPT_RUNS", "runs"))


def all_runs(folder: Path | None = None) -> list[Run]:
    """Every run in `folder`, the most recently modified first."""
    folder = folder or runs_folder()
    found = [Run(path.parent) for path in folder.glob("*/run.yaml")]
    return sorted(found, key=lambda run: run.last_modified, reverse=True)


def runs_on(data_set: Path) -> list[Run]:
    """The runs of `runs_folder` that are trained on the data set in this folder."""
    folder = data_set.resolve()
    return [
        run for run in all_runs() if (path := run.data_path()) and Path(path).resolve() == folder
    ]


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
    """The model directory that `source` names.

    It is a directory, such as a checkpoint's or a PEFT adapter's; a run (its best checkpoint) by
    name or path; `run@step`, `run@best` or `run@latest`; or a pointer file such as
    runs/demo/checkpoints/best.
    """
    if any(os.path.isfile(os.path.join(source, name)) for name in MODEL_FILES):
        return Path(source)
    name, step = _run_and_step(source)
    if not step and os.path.isdir(name) and not Run(Path(name)).exists:
        raise UsageError(f"{source} holds no config.json, so it is not a model directory.")
    run = find_run(name)
    steps = run.checkpoint_steps()
    chosen: int | None
    if step in ("best", "latest"):
        chosen = run.pointer("best" if step == "best" else "latest")
    elif step:
        chosen = int(step) if step.isdecimal() and int(step) in steps else None
    elif not steps:
        raise RunError(f"The run {name} has no checkpoint yet; wait for one, or train longer.")
    else:
        chosen = run.pointer("best") or run.pointer("latest") or steps[-1]
    if chosen is None:
        known = ", ".join(map(str, steps)) or "none"
        raise RunError(f"The run {name} has no checkpoint {step}; it has: {known}.")
    return run.checkpoint_path(chosen)


def resolve_checkpoint(source: str) -> Path:
    """The checkpoint that `RUN@step`, `RUN@best`, `RUN@latest` or `RUN`, its latest, names.

    Raises `RunError` if there is none.
    """
    folder = resolve_model(source if _run_and_step(source)[1] else f"{source}@latest")
    if folder.parent.name != "checkpoints":
        raise RunError(f"{source} is no checkpoint of a run; name one as RUN@STEP.")
    return folder


def _run_and_step(source: str) -> tuple[str, str]:
    """A run's name or path, and what is named of it: a step, "best", "latest" or nothing."""
    path = Path(source)
    if path.name == "checkpoints":
        return str(path.parent), ""
    if path.parent.name == "checkpoints" and path.name in ("best", "latest"):
        return str(path.parent.parent), path.name
    name, at, step = source.rpartition("@")
    return (name, step) if at and "/" not in step else (source, "")
