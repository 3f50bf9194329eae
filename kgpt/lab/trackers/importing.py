"""Runs of experiment trackers as run directories, which list, compare and show as kgpt's own."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kgpt.config import Config
from kgpt.errors import DataError, RunError, UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt, write_json
from kgpt.lab.trackers.export import STATUS, STATUS_KEYS
from kgpt.lab.trackers.formats import Tracker, module_of, recognize
from kgpt.lab.trackers.metric_names import map_names, rename
from kgpt.lab.trackers.tracked_run import TrackedRun
from kgpt.runs import FINAL_STATES, Run, RunStatus, new_run


@dataclass(frozen=True)
class ImportedRun:
    """What was made of a run of a tracker.

    Attributes:
        run: the name of the new run.
        renamed: the tracker's names of metrics, and kgpt's.
        skipped: how many logged values are no numbers, by kind.
    """

    run: str
    steps: int
    metrics: list[str]
    renamed: dict[str, str]
    skipped: dict[str, int]


def import_runs(
    path: Path, tracker: Tracker | None = None, name: str | None = None
) -> list[ImportedRun]:
    """Make a run directory of each run that a tracker has at `path`.

    Args:
        tracker: recognized by the files when not given.
        name: of the run, if there is one; the tracker's when not given.

    Raises:
        UsageError: there is no such file, or `name` is given and there are several runs.
        RunError: there is a run of such a name; nothing is imported.
        DataError: a file is damaged, or holds no numbers.
    """
    tracker = tracker or recognize(path)
    found = [run for run in module_of(tracker).read(path) if run.rows]
    if not found:
        raise DataError(f"{path} holds no numbers of {tracker}.")
    if name is not None and len(found) > 1:
        raise UsageError(f"{path} holds {len(found)} runs, which cannot all be called {name}.")
    targets = [new_run(name or free) for free in _names(found)]
    for run in targets:
        if run.path.exists():
            raise RunError(f"The run {run.name} exists already; give another --run name.")
    return [_import(run, target, tracker, path) for run, target in zip(found, targets, strict=True)]


def _names(found: Sequence[TrackedRun]) -> list[str]:
    """A valid name of a run for each; those that are called the same are numbered."""
    names: list[str] = []
    for run in found:
        name = re.sub(r"[^\w.-]+", "-", run.name).strip(".-")[:100] or "imported"
        numbered = (f"{name}-{number}" for number in range(2, len(found) + 2))
        names.append(next(free for free in (name, *numbered) if free not in names))
    return names


def _import(found: TrackedRun, run: Run, tracker: Tracker, path: Path) -> ImportedRun:
    names = map_names(found.metrics)
    found.rows = rename(found.rows, names)
    found.sort_rows()
    imported = ImportedRun(run.name, len(found.rows), found.metrics, names, dict(found.skipped))
    config = {key: value for key, value in found.config.items() if key != STATUS}
    origin = {
        "tracker": tracker,
        "path": str(path.resolve()),
        "name": found.name,
        "renamed": names,
        "skipped": imported.skipped,
        "config": {} if is_of_kgpt(config) else config,
    }
    with os_errors_as_kgpt(f"write {run.path}"), atomic_dir(run.path) as folder:
        made = Run(folder)
        made.write_config(_run_yaml(config, found, tracker))
        made.write_status(_status(found))
        write_json(folder / "imported.json", origin)
        for row in found.rows:
            made.append("metrics", row)
    return imported


def is_of_kgpt(config: dict[str, Any]) -> bool:
    """Is it the whole configuration of a run of kgpt?"""
    try:
        return {"model", "train"} <= config.keys() and bool(Config.parse(config))
    except UsageError:
        return False


def _run_yaml(config: dict[str, Any], found: TrackedRun, tracker: Tracker) -> str:
    """The configuration of kgpt's own runs, else the number of steps alone."""
    if is_of_kgpt(config):
        return Config.parse(config).to_yaml()
    text = yaml.safe_dump({"train": {"max_steps": max(1, found.rows[-1]["step"])}})
    return f"# Imported from {tracker}, whose configuration is in imported.json.\n{text}"


def _status(found: TrackedRun) -> RunStatus:
    """How far it came: what kgpt exported, else the last step that was logged."""
    step, time = found.rows[-1]["step"], found.rows[-1]["time"]
    status = RunStatus(state=found.state or "finished", step=step, total_steps=step)
    recorded = found.config.get(STATUS)
    if isinstance(recorded, dict) and recorded.keys() <= STATUS_KEYS:
        with contextlib.suppress(ValueError):
            status = RunStatus(**recorded)
    state = status.state if status.state in FINAL_STATES else "stopped"
    return status.model_copy(update={"state": state, "heartbeat": time})
