"""Starting trainers: processes of their own, in sessions of their own, that outlive the app.

`subprocess` and not asyncio's: the latter's transports kill their process when they are collected.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

from kgpt.config import Config
from kgpt.errors import RunError
from kgpt.files import os_errors_as_kgpt
from kgpt.runs import Run, RunStatus, new_run

BACKENDS = ("tensorflow", "jax", "torch")
started: dict[Path, subprocess.Popen] = {}  # trainers started by this app, by their run's folder


def installed_backends() -> list[str]:
    """Backends that can be chosen here; nothing is imported to find out."""
    found = [name for name in BACKENDS if importlib.util.find_spec(name)]
    preferred = os.environ.get("KERAS_BACKEND", "tensorflow")
    return sorted(found, key=lambda name: name != preferred)


def start(config: Config, name: str, backend: str) -> Run:
    """Train `config` as the new run `name`, in a process that this app need not survive."""
    run = new_run(name)
    if run.exists:
        raise RunError(f"The run {name} exists already; choose another name, or resume it.")
    with os_errors_as_kgpt(f"create the run {name} in {run.path.parent}"):
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config.to_yaml())
        _train(run, backend)
    return run


def resume(run: Run, backend: str = "", max_steps: int | None = None) -> None:
    """Go on with a run that ended or died, from its last good checkpoint."""
    status = run.status()
    if status.state not in ("finished", "stopped", "failed") and not status.is_dead:
        raise RunError(f"The run {run.name} is {status.state}; it needs no new start.")
    extra = [] if max_steps is None else ["--train.max-steps", str(max_steps)]
    with os_errors_as_kgpt(f"start the run {run.name} again"):
        (run.path / "status.json").unlink(missing_ok=True)
        _train(run, backend or status.backend, extra, status)


def _train(run: Run, backend: str, extra: list[str] | None = None, before: RunStatus | None = None):
    """`kgpt train RUN.YAML --run NAME --resume`, which starts at step 0 without a checkpoint."""
    path = run.path.resolve()
    command = [
        sys.executable, "-m", "kgpt", "train", str(path / "run.yaml"),
        "--run", run.name, "--resume", "--quiet", *(extra or []),
    ]  # fmt: skip
    environment = os.environ | {"KGPT_RUNS": str(path.parent)}
    if backend:
        environment["KERAS_BACKEND"] = backend
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=environment,
        )  # fmt: skip
    started[path] = process
    facts = {} if before is None else before.model_dump(include={"step", "total_steps", "epoch"})
    run.write_status(
        RunStatus(
            state="starting", pid=process.pid, host=socket.gethostname(), backend=backend
        ).model_copy(update=facts)
    )  # so that every watcher can tell a slow start from a death


def reap() -> None:
    """Let ended children go, so that their process ids say that they are gone."""
    for process in started.values():
        process.poll()


def alive() -> list[Run]:
    """Runs that this app started and that are still going on."""
    return [Run(path) for path, process in started.items() if process.poll() is None]
