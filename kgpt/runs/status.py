"""The state and progress of a run: `status.json`."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Literal

from pydantic import BaseModel

State = Literal[
    "starting", "compiling", "training", "paused", "validating", "sampling", "saving",
    "finished", "stopped", "failed",
]  # fmt: skip
FINAL_STATES = ("finished", "stopped", "failed")
HEARTBEAT_INTERVAL_S = 2.0  # between two writes of status.json
HEARTBEAT_TIMEOUT_S = 20.0  # a run on another host without a newer heartbeat counts as dead


class RunStatus(BaseModel):
    """The contents of `status.json`: state and progress of a run.

    `state_before_resume` is set from when an ended run is resumed until it trains: a resume that
    fails before leaves the run in that state.
    """

    state: State = "starting"
    state_before_resume: State | None = None
    step: int = 0
    total_steps: int = 0
    epoch: float = 0.0
    tokens_seen: int = 0
    eta_s: float | None = None
    heartbeat: float = 0.0
    pid: int = 0
    host: str = ""
    backend: str = ""
    device: str = ""
    error: str | None = None

    @property
    def is_dead(self) -> bool:
        """True if the state is not final but the process is gone."""
        if self.state in FINAL_STATES:
            return False
        if self.host == socket.gethostname():
            return not _process_exists(self.pid)
        return time.time() - self.heartbeat > HEARTBEAT_TIMEOUT_S

    def as_before_resume(self) -> RunStatus:
        """The status without the attempt to resume."""
        state = self.state_before_resume or self.state
        return self.model_copy(update={"state": state, "state_before_resume": None})

    def before_resume(self) -> dict[str, Any]:
        """The fields with which the status of a resumed run begins."""
        state = self.state if self.state in FINAL_STATES else self.state_before_resume
        kept = self.model_dump(include={"step", "total_steps", "epoch", "tokens_seen"})
        return kept | {"state_before_resume": state}


def _process_exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
