"""The trackers by name, and which one wrote some files."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from kgpt.errors import UsageError

Tracker = Literal["tensorboard", "wandb", "trackio"]
TRACKERS: tuple[Tracker, ...] = get_args(Tracker)


def module_of(tracker: Tracker) -> Any:
    """The module that reads and writes its files; a `UsageError` if its package is missing."""
    if find_spec(tracker) is None:
        raise UsageError(f'{tracker} is not installed; `pip install "kgpt[tracking]"` brings it.')
    return import_module(f"kgpt.lab.trackers.{tracker}_files")


def recognize(path: Path) -> Tracker:
    """Which tracker wrote the files at `path`.

    Raises `UsageError` if there are none, or those of several.
    """
    if not path.exists():
        raise UsageError(f"There is nothing at {path}.")
    found = [tracker for tracker in TRACKERS if _has_files(path, tracker)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{path} holds files of {' and '.join(found)}; choose one with --from.")
    raise UsageError(
        f"{path} holds no event file of TensorBoard, no .wandb file and no database of trackio."
    )


def _has_files(path: Path, tracker: Tracker) -> bool:
    from kgpt.lab.trackers.trackio_files import is_database

    pattern = {"tensorboard": "*tfevents*", "wandb": "*.wandb", "trackio": "*.db"}[tracker]
    files = [path] if path.is_file() else path.rglob(pattern)
    return any(
        file.match(pattern) and (tracker != "trackio" or is_database(file)) for file in files
    )
