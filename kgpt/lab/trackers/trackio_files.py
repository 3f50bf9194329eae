"""trackio's databases: a SQLite file for each project."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sqlite3
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from kgpt.errors import DataError, UsageError
from kgpt.lab.trackers.tracked_run import BASE, TrackedRun

PATTERN = "*.db"
MAGIC = b"SQLite format 3\0"
NON_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
REMOTE = ("TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID", "TRACKIO_SPACE_ID")


def write(run: TrackedRun, folder: Path, project: str) -> Path:
    """Add a run to the database of a project in `folder`, and return it.

    Raises `UsageError` if it cannot be a project, or has a run of this name.
    """
    with _storage_in(folder.resolve()) as storage:
        try:
            storage.validate_project_name(project)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if run.name in storage.get_runs(project):
            raise UsageError(
                f"The project {project} has a run {run.name} already; give another --project."
            )
        storage.bulk_log(
            project, run.name,
            metrics_list=[{k: v for k, v in row.items() if k not in BASE} for row in run.rows],
            steps=[row["step"] for row in run.rows],
            timestamps=[_iso(row["time"]) for row in run.rows],
            config=run.config or None,
        )  # fmt: skip
        return Path(storage.get_project_db_path(project))


@contextlib.contextmanager
def _storage_in(folder: Path) -> Iterator[Any]:
    """trackio's storage, with its databases in `folder` and nowhere else."""
    remote = {key: os.environ.pop(key) for key in REMOTE if key in os.environ}
    try:
        module: Any = import_module("trackio.sqlite_storage")
        usual, module.TRACKIO_DIR = module.TRACKIO_DIR, folder
        try:
            yield module.SQLiteStorage
        finally:
            module.TRACKIO_DIR = usual
    finally:
        os.environ.update(remote)


def default_folder() -> Path:
    """Where trackio's dashboard looks for databases."""
    from trackio.utils import TRACKIO_DIR

    return Path(TRACKIO_DIR)


def read(path: Path) -> list[TrackedRun]:
    """The runs of a database, or of all databases of trackio in a folder."""
    files = [path] if path.is_file() else sorted(filter(is_database, path.rglob(PATTERN)))
    return [run for file in files for run in _read_file(file)]


def is_database(file: Path) -> bool:
    """Is it a database with trackio's table of metrics?"""
    with file.open("rb") as content:
        if content.read(len(MAGIC)) != MAGIC:
            return False
    with contextlib.suppress(sqlite3.Error), _connect(file) as connection:
        return {"run_name", "step", "metrics"} <= _columns(connection, "metrics")
    return False


def _read_file(file: Path) -> list[TrackedRun]:
    if not is_database(file):
        raise DataError(f"{file} is no database of trackio.")
    runs: dict[str, TrackedRun] = {}
    try:
        with _connect(file) as connection:
            key = "run_id" if "run_id" in _columns(connection, "metrics") else "run_name"
            order = f"SELECT {key}, run_name, step, timestamp, metrics FROM metrics ORDER BY id"
            for identity, name, step, time, metrics in connection.execute(order):
                run = runs.setdefault(identity, TrackedRun(name))
                run.add_row(int(step), _seconds(time), _values(metrics))
            for identity, config in _configs(connection, key):
                if identity in runs:
                    runs[identity].config = config
    except (sqlite3.Error, ValueError) as error:
        raise DataError(f"{file} is damaged: {error}.") from None
    for run in runs.values():
        run.sort_rows()
    return list(runs.values())


def _configs(connection: sqlite3.Connection, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration of each run, without what trackio adds: the user, the date."""
    if key in _columns(connection, "configs"):
        for identity, text in connection.execute(f"SELECT {key}, config FROM configs"):
            values = {k: v for k, v in _values(text).items() if not k.startswith("_")}
            yield identity, values


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


@contextlib.contextmanager
def _connect(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the file."""
    with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as one:
        yield one


def _values(text: str | bytes) -> dict[str, Any]:
    values = json.loads(text)
    return {k: NON_FINITE.get(v, v) if isinstance(v, str) else v for k, v in values.items()}


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
