"""How the run is: keeps status.json true, with a heartbeat, while the trainer is busy elsewhere."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from kgpt.runs import HEARTBEAT_S, Run, RunStatus, State


class StatusWriter:
    """Owns the `RunStatus` of a run, or of none, and writes it whenever it changes.

    A thread writes it every few seconds besides, so that a watcher can tell a step that takes
    long (compiling) from a trainer that died.
    """

    def __init__(self, run: Run | None, **fields: Any):
        self.run = run
        self.status = RunStatus(pid=os.getpid(), host=socket.gethostname(), **fields)
        self.non_training_s = 0.0  # time spent in `state`, which is no training time
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._beat = threading.Thread(target=self._keep_beating, daemon=True)
        self.update()
        if run is not None:
            self._beat.start()

    def update(self, **fields: Any) -> None:
        with self._lock:
            for name, value in fields.items():
                setattr(self.status, name, value)
            self._write()

    @contextlib.contextmanager
    def state(self, state: State) -> Iterator[None]:
        """Show `state` while the block runs, and do not count its time as training."""
        before, start = self.status.state, time.perf_counter()
        self.update(state=state)
        try:
            yield
        finally:
            self.non_training_s += time.perf_counter() - start
            self.update(state=before)

    def end(self, state: State, error: str | None = None) -> None:
        """The last word on the run."""
        self._ended.set()
        if self._beat.is_alive():
            self._beat.join()
        self.update(state=state, error=error, eta_s=None)

    def _write(self) -> None:
        self.status.heartbeat = time.time()
        if self.run is not None:
            with contextlib.suppress(OSError):  # a full disk must not end the training
                self.run.write_status(self.status)

    def _keep_beating(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with self._lock:
                self._write()
