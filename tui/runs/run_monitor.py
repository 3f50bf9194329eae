"""A run as a watcher sees it: its condition, curves, samples and log, read as they grow.

The one class here is what every screen of the training side looks at. It survives whatever may
happen to a run's folder: no status yet, a half-written row, a folder that is deleted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kgpt.runs import ENDED, Run, RunStatus
from kgpt_tui.runs.metrics import History, JsonLines, TextTail
from kgpt_tui.train import launch

LOG_LINES = 2000
SAMPLES = 5000
COLOURS = {
    "training": "$success",
    "finished": "$primary",
    "paused": "$warning",
    "stopped": "$foreground-muted",
    "failed": "$error",
    "dead": "$error",
    "gone": "$foreground-muted",
}  # every other condition is one that passes: $accent
LIVELY = ("starting", "compiling", "training", "paused", "validating", "sampling", "saving")


@dataclass
class Sample:
    """Text written while training."""

    step: int
    prompt: str
    text: str


def condition(run: Run, status: RunStatus | None = None) -> str:
    """The state of a run's status, or `dead` (its process is gone), or `gone` (the folder is)."""
    if not run.exists:
        return "gone"
    status = status or run.status()
    launch.reap()
    if status.is_dead:
        return "dead"
    return status.state


class RunFeed:
    """Everything about one run, kept up to date by calling `read`."""

    def __init__(self, path: Path):
        self.run = Run(path)
        self.status = RunStatus()
        self.condition = "starting"
        self.history = History()
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.log_lines = 0  # lines of the log since it began anew
        self.changes = {"status": 0, "metrics": 0, "samples": 0, "log": 0}  # counters
        self._readers = (JsonLines(path / "metrics.jsonl"), JsonLines(path / "samples.jsonl"))
        self._log = TextTail(path / "train.log")

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def is_alive(self) -> bool:
        return self.condition in LIVELY

    @property
    def has_ended(self) -> bool:
        return self.condition in (*ENDED, "dead")

    @property
    def progress(self) -> float:
        """The share of the steps that is done, from 0 to 1."""
        return (
            min(1.0, self.status.step / self.status.total_steps) if self.status.total_steps else 0
        )

    @property
    def eta_s(self) -> float | None:
        """Seconds left by the trainer's own reckoning, less what has passed since."""
        if self.status.eta_s is None or self.condition != "training":
            return self.status.eta_s
        since = time.time() - self.history.last.get("time", self.status.heartbeat)
        return max(0.0, self.status.eta_s - max(0.0, since))

    def read(self) -> bool:
        """Take what is new, a chunk of each file at most; True if there may be more."""
        self._read_status()
        rows, fresh = self._readers[0].read()
        if fresh:
            self.history = History()
        self.history.add(rows)
        found, fresh_samples = self._readers[1].read()
        if fresh_samples:
            self.samples.clear()
        self.samples.extend(sample for row in found if (sample := as_sample(row)))
        text, fresh_log = self._log.read()
        if fresh_log:
            self.log.clear()
            self.log_lines = 0
        lines = [line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n")]
        lines = lines[:-1] if text.endswith("\n") or not text else lines
        self.log.extend(lines)
        self.log_lines += len(lines)
        self._count("metrics", rows or fresh)
        self._count("samples", found or fresh_samples)
        self._count("log", text or fresh_log)
        return bool(rows or found or text)

    async def catch_up(self) -> None:
        """Read all there is, leaving room for keys and drawing in between."""
        while self.read():
            await asyncio.sleep(0)

    def error(self) -> str:
        """Why the run ended before its time: the trainer's words, or the end of its log."""
        if self.status.error:
            return self.status.error
        if self.condition != "dead":
            return ""
        last = [line.strip() for line in list(self.log)[-40:] if line.strip()]
        return f"Its log ends: {last[-1]}" if last else "It left no message."

    def _read_status(self) -> None:
        status = self.run.status()
        if status.heartbeat < self.status.heartbeat and not status.pid:
            status = self.status  # unreadable at this moment: the last one read still holds
        found = condition(self.run, status)
        if (status.model_dump(exclude={"heartbeat"}), found) != (
            self.status.model_dump(exclude={"heartbeat"}),
            self.condition,
        ):
            self.changes["status"] += 1
        self.status, self.condition = status, found

    def _count(self, what: str, changed: Any) -> None:
        self.changes[what] += bool(changed)


def as_sample(row: dict[str, Any]) -> Sample | None:
    """A row of samples.jsonl, if it is one."""
    step, prompt, text = row.get("step"), row.get("prompt"), row.get("text")
    if isinstance(step, int) and isinstance(prompt, str) and isinstance(text, str):
        return Sample(step, prompt, text)
    return None
