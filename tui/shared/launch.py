"""Trainer processes: each in a session of its own, so that it outlives the app.

`subprocess` and not asyncio's, whose transports kill their process when garbage-collected.
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
_processes: dict[Path, subprocess.Popen[bytes]] = {}  # started by this app, by run directory


def installed_backends() -> list[str]:
    """Installed Keras backends, the preferred one first; none is imported to find out."""
    found = [name for name in BACKENDS if importlib.util.find_spec(name)]
    preferred = os.environ.get("KERAS_BACKEND", "tensorflow")
    return sorted(found, key=lambda name: name != preferred)


def start(config: Config, name: str, backend: str) -> Run:
    """Train `config` as the new run `name`, in a process that outlives this app.

    Raises:
        RunError: there is a run of that name.
    """
    run = new_run(name)
    if run.is_taken:
        raise RunError(f"The run {name} exists already; choose another name, or resume it.")
    with os_errors_as_kgpt(f"create the run {name} in {run.path.parent}"):
        run.path.mkdir(parents=True, exist_ok=True)
        run.write_config(config.to_yaml())
        _spawn_trainer(run, backend)
    return run


def resume(run: Run, backend: str = "", max_steps: int | None = None) -> None:
    """Resume a run that ended or died from its last complete checkpoint.

    Raises:
        RunError: the run is active.
    """
    status = run.status()
    if status.state not in ("finished", "stopped", "failed") and not status.is_dead:
        raise RunError(f"The run {run.name} is {status.state}; it need not be resumed.")
    flags = [] if max_steps is None else ["--train.max-steps", str(max_steps)]
    with os_errors_as_kgpt(f"resume the run {run.name}"):
        _spawn_trainer(run, backend or status.backend, flags, status)


def _spawn_trainer(
    run: Run, backend: str, flags: list[str] | None = None, previous: RunStatus | None = None
) -> None:
    """Start `kgpt train RUN.YAML --run NAME --resume`, which begins at step 0 if there is no
    checkpoint, and write its first status, which tells a slow start from a dead process."""
    path = run.path.resolve()
    command = [
        sys.executable, "-m", "kgpt", "train", str(path / "run.yaml"),
        "--run", run.name, "--resume", "--quiet", *(flags or []),
    ]  # fmt: skip
    run.take_commands()  # left for an earlier trainer; those sent from now on are for this one
    environment = os.environ | {"KGPT_RUNS": str(path.parent)}
    if backend:
        environment["KERAS_BACKEND"] = backend
    with run.log.open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, env=environment,
        )  # fmt: skip
    _processes[path] = process
    before = previous.before_resume() if previous else {}
    host = socket.gethostname()
    run.write_status(
        RunStatus(state="starting", pid=process.pid, host=host, backend=backend, **before)
    )


def reap_children() -> None:
    """Collect ended trainers: as zombies they would still look alive by their process id."""
    for process in _processes.values():
        process.poll()


def has_failed(run: Run) -> bool:
    """True if the trainer that this app started last for `run` ended with an error."""
    process = _processes.get(run.path.resolve())
    return process is not None and process.poll() not in (None, 0, 130)


def active_runs() -> list[Run]:
    """Runs that this app started and whose trainer has not ended."""
    return [Run(path) for path, process in _processes.items() if process.poll() is None]
