"""Offline directories of Weights & Biases, as `wandb sync` uploads them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from kgpt.errors import DataError, KgptError
from kgpt.lab.trackers.tracked_run import BASE, TrackedRun
from kgpt.lab.trackers.wandb_log import records

PATTERN = "*.wandb"
WRITE_TIMEOUT_S = 60.0
SETTINGS = {  # nothing of this machine, which need not be where the run was trained
    "console": "off",
    "disable_git": True,
    "save_code": False,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


def write(run: TrackedRun, folder: Path, project: str) -> Path:
    """Log a run offline, with its times; returns its directory below folder/wandb."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # is read when it is imported
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    start = run.rows[0]["time"] if run.rows else None
    session = wandb.init(
        mode="offline", dir=str(folder), project=project, name=run.name, config=run.config,
        settings=wandb.Settings(**SETTINGS, x_start_time=start), reinit="create_new",
    )  # fmt: skip
    for row in run.rows:
        values = {name: value for name, value in row.items() if name not in BASE}
        session.log(values | {"_timestamp": row["time"]}, step=row["step"])
    session.finish(exit_code=1 if run.state == "failed" else 0)
    target = Path(session.dir).parent
    _wait_until_written(next(target.glob(PATTERN)))
    return target


def _wait_until_written(file: Path) -> None:
    """W&B's service, a process of its own, may still be writing when `finish` returns."""
    deadline = time.monotonic() + WRITE_TIMEOUT_S
    while not _has_ended(_read_file(file)):
        if time.monotonic() > deadline:
            raise KgptError(f"W&B has not finished {file} in {WRITE_TIMEOUT_S:.0f} s; try again.")
        time.sleep(0.05)


def _has_ended(run: TrackedRun) -> bool:
    return run.state != "stopped"


def read(path: Path) -> list[TrackedRun]:
    """The runs below a folder, such as `wandb` or `wandb/offline-run-...`, or of one file."""
    return [_read_file(file) for file in ([path] if path.is_file() else _files(path))]


def _files(folder: Path) -> list[Path]:
    """Each file once: `wandb/latest-run` is a link to the latest."""
    return sorted({file.resolve() for file in folder.rglob(PATTERN)})


def _read_file(file: Path) -> TrackedRun:
    record_class = import_module("wandb.proto.wandb_internal_pb2").Record
    run = TrackedRun(file.stem)
    run.state = "stopped"  # until the record of its end
    try:
        for content in records(file.read_bytes()):
            record = record_class.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run.name = record.run.display_name or record.run.run_id
                _update(run.config, record.run.config.update)
            elif kind == "config":
                _update(run.config, record.config.update)
            elif kind == "history":
                _add_row(run, record.history.item)
            elif kind == "exit":
                run.state = "failed" if record.exit.exit_code else "finished"
    except Exception as error:  # also those of the protocol buffers
        raise DataError(f"{file} is damaged, or of another kind: {error}.") from None
    run.config.pop("_wandb", None)
    run.sort_rows()
    return run


def _update(config: dict[str, Any], items: Any) -> None:
    for keys, value in _items(items):
        inner = config
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = value


def _add_row(run: TrackedRun, items: Any) -> None:
    values: dict[str, Any] = {}
    _update(values, items)
    step, seconds = values.pop("_step", None), values.pop("_timestamp", 0.0)
    values = {key: value for key, value in values.items() if not key.startswith("_")}
    if step is not None:
        run.add_row(int(step), seconds, values)


def _items(items: Any) -> Iterator[tuple[list[str], Any]]:
    for item in items:
        yield list(item.nested_key) or [item.key], json.loads(item.value_json)
