"""Growing JSON-lines files read once, and the curves they hold, made small enough to draw.

A reader remembers how far it came and takes only what was added since. A line still being written
is left for the next time; a file that vanishes is waited for; a file that was replaced, as a
resumed run does with its metrics, is read again from its beginning.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 256 << 10  # bytes taken at once: about ten milliseconds of parsing
Curve = tuple[np.ndarray, np.ndarray]  # steps and values, float64, of one length


class Growing:
    """What is added to a file, as bytes, from the offset reached before."""

    def __init__(self, path: Path, tail: int | None = None):
        self.path = path
        self._tail = tail
        self._offset: int | None = None
        self._inode = 0

    def read(self, chunk: int = CHUNK) -> tuple[bytes, bool]:
        """(up to `chunk` new bytes, whether the file is another one than before)."""
        try:
            with self.path.open("rb") as file:
                facts = os.fstat(file.fileno())
                fresh = self._offset is None or facts.st_size < self._offset
                fresh = fresh or facts.st_ino != self._inode
                if fresh:
                    skip = 0 if self._tail is None else max(0, facts.st_size - self._tail)
                    self._offset, self._inode = skip, facts.st_ino
                file.seek(self._offset or 0)
                return file.read(chunk), fresh
        except OSError:
            self._offset = None  # what comes back under this name is another file
            return b"", False

    def advance(self, taken: int) -> None:
        self._offset = (self._offset or 0) + taken


class JsonLines:
    """The rows of a JSON-lines file, each handed out once."""

    def __init__(self, path: Path):
        self._file = Growing(path)

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """(new rows, True if all rows before them are void); no rows means nothing new.

        Lines that are no JSON object are skipped; so is one longer than a chunk.
        """
        data, fresh = self._file.read()
        whole = data.rfind(b"\n") + 1
        if not whole and len(data) == CHUNK:
            whole = CHUNK
        self._file.advance(whole)
        return list(parse(data[:whole].splitlines())), fresh


class TextTail:
    """The end of a log, then whatever is added to it."""

    def __init__(self, path: Path, tail: int = 64 << 10):
        self._file = Growing(path, tail)

    def read(self) -> tuple[str, bool]:
        """(new text, True if it replaces what was read before)."""
        data, fresh = self._file.read()
        whole = data.rfind(b"\n") + 1 or len(data)
        self._file.advance(whole)
        return data[:whole].decode("utf-8", "replace"), fresh


def parse(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    """The JSON objects among `lines`."""
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


class History:
    """The curves of one run: a column of steps and one of values for each figure."""

    def __init__(self) -> None:
        self._steps: dict[str, array] = {}
        self._values: dict[str, array] = {}
        self.last: dict[str, float] = {}
        self.best: tuple[float, int] | None = None  # lowest validation loss, and its step
        self.rows = 0

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take rows as metrics.jsonl holds them; what is no finite number is left out."""
        for row in rows:
            step = row.get("step")
            if not isinstance(step, int):
                continue
            self.rows += 1
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)) and np.isfinite(value):
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
        empty = array("d")
        return np.array(self._steps.get(name, empty)), np.array(self._values.get(name, empty))

    @property
    def names(self) -> list[str]:
        return list(self._steps)


class Glance:
    """The few figures of a run that a table shows, kept without its curves."""

    def __init__(self, path: Path):
        self._lines = JsonLines(path)
        self.last: dict[str, Any] = {}
        self.best: float | None = None

    def read(self) -> bool:
        """Take one chunk of new rows; False when there was nothing new."""
        rows, fresh = self._lines.read()
        if fresh:
            self.last, self.best = {}, None
        for row in rows:
            self.last |= row
            value = row.get("val_loss")
            if isinstance(value, (int, float)) and (self.best is None or value < self.best):
                self.best = float(value)
        return bool(rows)


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving mean without bias towards zero at the start, as Adam's moments have it.

    The sums are taken a block at a time: within a block they are a cumulative sum of the values
    divided by the powers of `weight`, which stay far from underflow there.

    >>> smoothed(np.array([2.0, 2.0, 2.0]), 0.9).round(6).tolist()
    [2.0, 2.0, 2.0]
    """
    if not weight or not len(values):
        return values
    block = max(1, int(math.log(1e-12) / math.log(weight)))
    powers = weight ** np.arange(block)
    padded = np.append(values * (1 - weight), np.zeros(-len(values) % block)).reshape(-1, block)
    sums = np.cumsum(padded / powers, axis=1) * powers  # (blocks, block), each begun anew
    carried = accumulate(sums[:-1, -1].tolist(), lambda total, x: total * weight**block + x)
    sums[1:] += np.fromiter(carried, float)[:, None] * powers * weight
    return sums.ravel()[: len(values)] / (1 - weight ** np.arange(1, len(values) + 1))


def window(curve: Curve, low: float, high: float) -> Curve:
    """The part of a curve with steps in [low, high], and one point beyond on either side."""
    steps, values = curve
    first = max(0, int(np.searchsorted(steps, low, "left")) - 1)
    end = int(np.searchsorted(steps, high, "right")) + 1
    return steps[first:end], values[first:end]


def extremes(curve: Curve, buckets: int) -> Curve:
    """At most 2 x `buckets` points that keep every peak: the lowest and highest of each bucket."""
    steps, values = curve
    if len(steps) <= 2 * buckets:
        return curve
    edges = np.linspace(0, len(steps), buckets, endpoint=False).astype(int)
    lows, highs = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    rising = values[edges] <= lows + (highs - lows) / 2  # begin with the end nearer to the first
    pairs = np.where(rising, (lows, highs), (highs, lows)).T  # (buckets, 2)
    return np.repeat(steps[edges], 2), pairs.ravel()


def means(curve: Curve, buckets: int) -> Curve:
    """At most `buckets` points: the mean of each bucket."""
    steps, values = curve
    if len(steps) <= buckets:
        return curve
    edges = np.linspace(0, len(steps), buckets, endpoint=False).astype(int)
    counts = np.diff(np.append(edges, len(steps)))
    return (np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts)
