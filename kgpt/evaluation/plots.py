"""Geometry of the report's plots: numbers to places in a picture, drawn by the template as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from kgpt.evaluation.result import Estimate

Point = tuple[float, float]
MAX_BINS = 24
MARGIN = 44.0  # px, for the labels of the axes
ZERO = 1e-12  # what is shown as 0
ROW_HEIGHT = 16.0  # px, of one model in a plot of intervals


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in px."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low..high` to `start..end` px; `end` may be the smaller, as for y."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float) -> Axis:
        """An axis that holds all finite values, with room for a tick where they are all equal."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        size = max(abs(low), abs(high))
        if size < ZERO:
            low, high = 0.0, 1.0
        elif high - low < size / 1e9:
            low, high = low - size / 20, high + size / 20
        return cls(low, high, start, end)

    def at(self, value: float) -> float:
        """The place of a value, which is kept on the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, count: int = 5) -> list[Tick]:
        """About `count` ticks at multiples of 1, 2 or 5 times a power of ten.

        >>> [tick.label for tick in Axis(0.13, 0.92, 0, 100).ticks()]
        ['0.2', '0.4', '0.6', '0.8']
        """
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        places = [(self.at(index * step), index * step) for index in range(first, last + 1)]
        size = max(abs(self.low), abs(self.high))
        form = f",.{digits}f" if size < 1e6 else f".{math.ceil(math.log10(size / step)) + 1}g"
        return [Tick(at, format(value, form)) for at, value in places]


@dataclass(frozen=True)
class Interval:
    """The row of one model: its number, the height, and the figure between its bounds, in px."""

    model: int
    y: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalPlot:
    """A metric of several models on one axis."""

    width: float
    height: float
    intervals: list[Interval]
    ticks: list[Tick]


def interval_plot(estimates: Sequence[Estimate | None], width: float = 220) -> IntervalPlot:
    """One row a model, in their order; a model without the metric has an empty row."""
    known = [one for one in estimates if one is not None]
    values = [value for one in known for value in (one.low, one.value, one.high)]
    axis = Axis.around(values, 10, width - 10)
    rows = [
        Interval(i, (i + 0.5) * ROW_HEIGHT, axis.at(one.value), axis.at(one.low), axis.at(one.high))
        for i, one in enumerate(estimates)
        if one is not None
    ]
    return IntervalPlot(width, len(estimates) * ROW_HEIGHT + 16, rows, axis.ticks(4))


@dataclass(frozen=True)
class Line:
    """The line of one model as the points attribute of an SVG polyline, and where it ends."""

    model: int
    points: str
    end: Point


@dataclass(frozen=True)
class LinePlot:
    """Lines of several models on common axes."""

    width: float
    height: float
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str
    left: float = MARGIN
    bottom: float = MARGIN


def line_plot(
    curves: Sequence[Sequence[Point]],
    x_title: str,
    y_title: str,
    width: float = 540,
    height: float = 260,
) -> LinePlot:
    """One line a model, in their order; a model without points has none."""
    points = [point for curve in curves for point in curve]
    x_axis = Axis.around((x for x, _ in points), MARGIN + 8, width - 24)
    y_axis = Axis.around((y for _, y in points), height - MARGIN, 12)
    lines = []
    for model, curve in enumerate(curves):
        places = [(x_axis.at(x), y_axis.at(y)) for x, y in curve if math.isfinite(y)]
        if places:
            lines.append(Line(model, " ".join(f"{x},{y}" for x, y in places), places[-1]))
    return LinePlot(width, height, lines, x_axis.ticks(6), y_axis.ticks(), x_title, y_title)


def histogram(values: Sequence[Sequence[float]], x_title: str, y_title: str) -> LinePlot:
    """How many items of each model have which value: outlines over common bins."""
    everything = np.concatenate([np.asarray(own, "float64") for own in values])
    edges = np.histogram_bin_edges(everything, min(MAX_BINS, max(4, len(everything) // 4)))
    curves = [_outline(edges, np.histogram(own, edges)[0]) if len(own) else [] for own in values]
    return line_plot(curves, x_title, y_title)


def _outline(edges: np.ndarray, counts: np.ndarray) -> list[Point]:
    """From the ground over the top of each bin back to the ground."""
    xs, ys = np.repeat(edges, 2), np.concatenate([[0], np.repeat(counts, 2), [0]])
    return [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
