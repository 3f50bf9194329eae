"""Keeps a run's status.json up to date, with a heartbeat from a thread of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from kgpt.runs import HEARTBEAT_INTERVAL_S, Run, RunStatus, State


class StatusWriter:
    """The `RunStatus` of a run, written to status.json whenever it changes.

    A thread also writes it every few seconds, so that a watcher can tell a step that takes long
    (compiling) from a trainer that died.

    Args:
        run: the run directory; None keeps the status in memory.
        fields: initial values of the status.

    Attributes:
        non_training_s: seconds spent in `state` blocks, which are no training time.
    """

    def __init__(self, run: Run | None, **fields: Any):
        self.run = run
        self.status = RunStatus(pid=os.getpid(), host=socket.gethostname(), **fields)
        self.non_training_s = 0.0
        self._blocks = 0  # `state` blocks within one another
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heartbeat = threading.Thread(target=self._write_heartbeats, daemon=True)
        self.update()
        if run is not None:
            self._heartbeat.start()

    def note(self, **fields: Any) -> None:
        """Set fields of the status, which the next update or heartbeat writes."""
        with self._lock:
            for name, value in fields.items():
                setattr(self.status, name, value)

    def update(self, **fields: Any) -> None:
        """Set fields of the status and write it."""
        self.note(**fields)
        with self._lock:
            self._write()

    @contextlib.contextmanager
    def state(self, state: State) -> Iterator[None]:
        """Set `state` while the block runs, and do not count its time as training."""
        previous, start = self.status.state, time.perf_counter()
        self._blocks += 1
        self.update(state=state)
        try:
            yield
        finally:
            self._blocks -= 1
            if not self._blocks:  # the time of a block within another is part of the outer one's
                self.non_training_s += time.perf_counter() - start
            self.update(state=previous)

    def end(self, state: State, error: str | None = None) -> None:
        """Write the final state and stop the heartbeat."""
        self._ended.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()
        self.update(state=state, error=error, eta_s=None)

    def _write(self) -> None:
        self.status.heartbeat = time.time()
        if self.run is not None:
            with contextlib.suppress(OSError):  # a full disk must not end the training
                self.run.write_status(self.status)

    def _write_heartbeats(self) -> None:
        while not self._ended.wait(HEARTBEAT_INTERVAL_S):
            with self._lock:
                self._write()
