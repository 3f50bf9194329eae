"""The metrics of one run in memory: all of its curves, or a summary for a table."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from kgpt_tui.runs.curve import Curve
from kgpt_tui.runs.file_tail import JsonLines


class MetricsHistory:
    """The curves of one run: an array of steps and one of values per metric."""

    def __init__(self) -> None:
        self._steps: dict[str, array[float]] = {}
        self._values: dict[str, array[float]] = {}
        self.last: dict[str, float] = {}
        self.best: tuple[float, int] | None = None  # lowest validation loss, and its step
        self.rows = 0

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows of metrics.jsonl; values that are not finite numbers are left out."""
        for row in rows:
            step = row.get("step")
            if not isinstance(step, int):
                continue
            self.rows += 1
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                    self._append(name, step, float(value))

    def _append(self, name: str, step: int, value: float) -> None:
        if name not in self._steps:
            self._steps[name], self._values[name] = array("d"), array("d")
        self._steps[name].append(step)
        self._values[name].append(value)
        self.last[name] = value
        if name == "val_loss" and (self.best is None or value < self.best[0]):
            self.best = (value, step)

    def curve(self, name: str) -> Curve:
        """The (steps, values) of one metric, empty if it was never logged."""
        empty = array("d")
        return np.array(self._steps.get(name, empty)), np.array(self._values.get(name, empty))

    @property
    def names(self) -> list[str]:
        return list(self._steps)


class RunSummary:
    """The latest metrics and the best validation loss of a run, without its curves."""

    def __init__(self, path: Path):
        self._lines = JsonLines(path)
        self.last: dict[str, Any] = {}
        self.best: float | None = None

    def read(self) -> bool:
        """Read one chunk of new rows; False if there was none."""
        rows, fresh = self._lines.read()
        if fresh:
            self.last, self.best = {}, None
        for row in rows:
            self.last |= row
            value = row.get("val_loss")
            if isinstance(value, (int, float)) and (self.best is None or value < self.best):
                self.best = float(value)
        return bool(rows)
