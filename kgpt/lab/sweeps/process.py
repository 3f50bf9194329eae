"""A process that trains a trial up to a step: `kgpt train`, as anyone could call it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from kgpt.runs import Run


class TrialProcess:
    """Trains a run from where it is up to a step.

    A trial has a lock file, which its process holds as long as it lives, also when the sweep that
    started it is killed. Where the lock is taken, the process of a sweep before is still at work;
    it is waited for, and no other is started.

    Args:
        run: of the trial.
        config: its YAML file.
        stop: the step.
        environment: variables of the process, besides those of this one.
    """

    def __init__(self, run: Run, config: Path, stop: int, environment: dict[str, str]):
        self.run, self.stop, self.environment = run, stop, environment
        self.log = config.with_suffix(".log")
        self._lock = config.with_suffix(".lock")
        self._process: subprocess.Popen[bytes] | None = None
        if (lock := _take(self._lock)) is None:
            return
        command = [sys.executable, "-m", "kgpt", "train"]
        command += ["--resume"] if run.exists else [str(config)]
        command += ["--run", run.name, "--stop-at", str(stop), "--quiet"]
        variables = {**os.environ, **environment, "KGPT_RUNS": str(run.path.parent.resolve())}
        variables.pop("KGPT_RESTARTED", None)
        with lock, self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the sweep, which passes it on once
                pass_fds=(lock.fileno(),),
            )  # fmt: skip

    def poll(self) -> int | None:
        """The exit code, -1 if it is unknown; None while the process is at work."""
        if self._process is not None:
            return self._process.poll()
        if (lock := _take(self._lock)) is None:
            return None
        lock.close()
        return -1

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process is at work."""
        if self._process is not None:
            self._process.send_signal(number)
        elif self.run.is_active:
            os.kill(self.run.status().pid, number)

    def error(self) -> str:
        """What it said when it failed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        said = [line.removeprefix("kgpt: ") for line in lines if line.startswith("kgpt: ")]
        return said[-1] if said else f"it ended with exit code {self.poll()}; see {self.log}"


def _take(file: Path) -> IO[bytes] | None:
    """The lock of a file, held until it and its copies in other processes are closed; or None."""
    lock = file.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
