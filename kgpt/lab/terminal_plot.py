"""Curves in a terminal, in Braille characters of 2 x 4 dots."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from rich.text import Text

from kgpt.formatting import count, number

BLANK = 0x2800  # the Braille character without dots
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
STYLES = ("cyan", "yellow", "magenta", "green", "blue", "red")
LABEL = 9  # characters left of the plot
Points = tuple[Sequence[float], Sequence[float]]


def plot(
    curves: Sequence[Points],
    width: int = 72,
    height: int = 14,
    x_label: Callable[[float], str] = count,
    y_label: Callable[[float], str] = number,
    styles: Sequence[str] = STYLES,
) -> Text:
    """The curves, each (x, y), with the limits of both axes; empty without points.

    Where curves cross, the last is on top.

    Args:
        width, height: in characters, labels included.
        x_label, y_label: the limits of an axis as text.
        styles: of the curves, from the first again where there are more.
    """
    xs = np.concatenate([np.asarray(x, float) for x, _ in curves] or [np.zeros(0)])
    ys = np.concatenate([np.asarray(y, float) for _, y in curves] or [np.zeros(0)])
    if not xs.size:
        return Text()
    columns, lines = max(2, width - LABEL - 2), max(2, height - 1)
    cells = np.zeros((lines, columns), int)
    owners = np.full((lines, columns), -1)
    for index, (x, y) in enumerate(curves):
        dots = _dots(_scaled(x, xs, 2 * columns), _scaled(y, ys, 4 * lines), 2 * columns, 4 * lines)
        here = (dots.reshape(lines, 4, columns, 2) * DOTS[:, None, :]).sum(axis=(1, 3))
        owners[here > 0] = index
        cells |= here
    text = Text(no_wrap=True)
    for line in range(lines):
        label = {0: ys.max(), lines - 1: ys.min()}.get(line)
        text.append(f"{'' if label is None else y_label(float(label)):>{LABEL}} │", style="dim")
        for cell, owner in zip(cells[line].tolist(), owners[line].tolist(), strict=True):
            text.append(chr(BLANK + cell), style=styles[owner % len(styles)] if cell else "")
        text.append("\n")
    first, last = x_label(float(xs.min())), x_label(float(xs.max()))
    return text.append(" " * (LABEL + 2) + first + last.rjust(columns - len(first)), style="dim")


def _scaled(values: Sequence[float], every: np.ndarray, dots: int) -> np.ndarray:
    """Values in dots, the lowest of `every` at 0 and the highest at `dots` - 1."""
    low, high = float(every.min()), float(every.max())
    return (np.asarray(values, float) - low) / ((high - low) or 1.0) * (dots - 1)


def _dots(x: np.ndarray, y: np.ndarray, width: int, height: int) -> np.ndarray:
    """(height, width) bool: the dots of the line through the points, the lowest y in the last."""
    dots = np.zeros((height, width), bool)
    for begin in range(len(x)):
        end = min(begin + 1, len(x) - 1)
        steps = int(max(abs(x[end] - x[begin]), abs(y[end] - y[begin]))) + 2
        columns = np.linspace(x[begin], x[end], steps).round().astype(int)
        rows = np.linspace(y[begin], y[end], steps).round().astype(int)
        dots[height - 1 - rows, columns] = True
    return dots
