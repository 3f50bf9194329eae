"""`RunMonitor`: everything about one run, read from its directory as it grows.

All screens of the training side read runs through it. It copes with a missing status, incomplete
rows and a directory that is deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.runs import Run, RunStatus
from kgpt_tui.runs.file_tail import JsonLines, TextTail
from kgpt_tui.runs.metrics import MetricsHistory
from kgpt_tui.runs.run_state import ACTIVE_STATES, ENDED_STATES, effective_state
from kgpt_tui.shared import launch

MAX_LOG_LINES = 2000
MAX_SAMPLES = 5000


@dataclass
class Sample:
    """Text generated during training."""

    step: int
    prompt: str
    text: str


class RunMonitor:
    """One run; `read` brings it up to date.

    `revisions` counts the changes of each kind, so that a view can tell what is new to it.
    """

    def __init__(self, path: Path):
        self.run = Run(path)
        self.status = RunStatus()
        self.state = "starting"
        self.history = MetricsHistory()
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self.log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self.log_lines = 0  # lines of the log since it was replaced
        self.revisions = {"status": 0, "metrics": 0, "samples": 0, "log": 0}
        self._metrics = JsonLines(path / "metrics.jsonl")
        self._samples = JsonLines(path / "samples.jsonl")
        self._log = TextTail(path / "train.log")

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE_STATES

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_STATES

    @property
    def progress(self) -> float:
        """The fraction of the steps that is done, from 0 to 1."""
        total = self.status.total_steps
        return min(1.0, self.status.step / total) if total else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left: the trainer's estimate, less the time since it was made."""
        if self.status.eta_s is None or self.state != "training":
            return self.status.eta_s
        since = time.time() - self.history.last.get("time", self.status.heartbeat)
        return max(0.0, self.status.eta_s - max(0.0, since))

    def read(self) -> bool:
        """Read at most one chunk of each file; True if there may be more."""
        self._read_status()
        changed = (self._read_metrics(), self._read_samples(), self._read_log())
        return any(changed)

    def _read_metrics(self) -> bool:
        rows, fresh = self._metrics.read()
        if fresh:
            self.history = MetricsHistory()
        self.history.add(rows)
        self.revisions["metrics"] += bool(rows or fresh)
        return bool(rows)

    def _read_samples(self) -> bool:
        rows, fresh = self._samples.read()
        if fresh:
            self.samples.clear()
        self.samples.extend(sample for row in rows if (sample := parse_sample(row)))
        self.revisions["samples"] += bool(rows or fresh)
        return bool(rows)

    def _read_log(self) -> bool:
        text, fresh = self._log.read()
        if fresh:
            self.log.clear()
            self.log_lines = 0
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
        lines = lines[:-1] if text.endswith("\n") or not text else lines
        self.log.extend(lines)
        self.log_lines += len(lines)
        self.revisions["log"] += bool(text or fresh)
        return bool(text)

    async def read_all(self) -> None:
        """Read everything, yielding to the event loop between chunks."""
        while self.read():
            await asyncio.sleep(0)

    def error(self) -> str:
        """Why the run ended early: the trainer's error, or the last line of its log."""
        if self.status.error:
            return self.status.error
        if self.state != "dead" and not launch.has_failed(self.run):
            return ""
        last = [line.strip() for line in list(self.log)[-40:] if line.strip()]
        return f"Its log ends: {last[-1]}" if last else "Its log is empty."

    def _read_status(self) -> None:
        status = self.run.status()
        if status.heartbeat < self.status.heartbeat and not status.pid:
            status = self.status  # unreadable at this moment: keep the last one
        state = effective_state(self.run, status)
        ignored = {"heartbeat"}
        if state != self.state or (
            status.model_dump(exclude=ignored) != self.status.model_dump(exclude=ignored)
        ):
            self.revisions["status"] += 1
        self.status, self.state = status, state


def parse_sample(row: dict[str, Any]) -> Sample | None:
    """A row of samples.jsonl, or None if it is malformed."""
    step, prompt, text = row.get("step"), row.get("prompt"), row.get("text")
    if isinstance(step, int) and isinstance(prompt, str) and isinstance(text, str):
        return Sample(step, prompt, text)
    return None
