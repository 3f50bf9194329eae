"""A chart of curves over steps: zoom, pan, smoothing, logarithmic scale.

Curves are downsampled to two points per column, which keeps their minima and maxima.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.color import Color
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.widgets import Static
from textual_plot import HiResMode, PlotWidget
from textual_plot.axis_formatter import AxisFormatter, NumericAxisFormatter

from kgpt.formatting import count, number
from kgpt_tui.runs.braille_plot import BraillePlot
from kgpt_tui.runs.curve import Curve, crop, mean_downsample, minmax_downsample, smooth

PALETTE = ("primary", "warning", "success", "error", "accent", "secondary")
SMOOTHINGS = (0.0, 0.6, 0.9, 0.97)


def next_smoothing(current: float) -> float:
    return SMOOTHINGS[(SMOOTHINGS.index(current) + 1) % len(SMOOTHINGS)]


@dataclass(frozen=True)
class ChartLine:
    """A curve with its label in the legend and its colour, an index of the palette."""

    label: str
    curve: Curve
    color: int = 0
    dots: bool = False  # mark each point, as of the few validations


class StepFormatter(NumericAxisFormatter):
    """Steps as 500, 10k, 1.5M."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return ["" if tick < 0 else count(tick) for tick in ticks]


class ValueFormatter(NumericAxisFormatter):
    """Values in few characters: 0.25, 3, 12k, 1e-4."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        largest = max((abs(tick) for tick in ticks), default=0)
        if largest >= 1000:
            return [count(tick) for tick in ticks]
        if largest and largest < 0.01:
            return [f"{tick:.1e}".replace("e-0", "e-") if tick else "0" for tick in ticks]
        gaps = [b - a for a, b in pairwise(ticks)]
        digits = max(0, -math.floor(math.log10(min(gaps)))) if gaps and min(gaps) > 0 else 2
        return [f"{tick:.{min(digits, 6)}f}" for tick in ticks]


class LogFormatter(AxisFormatter):
    """Decimal logarithms labelled by their values: 1, 2, 5, 10, ..."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        powers = range(math.floor(min_), math.ceil(max_) + 1)
        if max_ - min_ < 0.35:  # a range too small for 1, 2, 5: evenly spaced values
            plain = NumericAxisFormatter().get_ticks(10**min_, 10**max_, max_ticks)
            return [math.log10(tick) for tick in plain if tick > 0]
        digits = (1, 2, 5) if max_ - min_ < 3 else (1,)
        ticks = [power + math.log10(digit) for power in powers for digit in digits]
        inside = [tick for tick in ticks if min_ <= tick <= max_]
        return inside[:: 1 + len(inside) // (max_ticks + 1)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return [f"{10**tick:.3g}".replace("e-0", "e-") for tick in ticks]


class Chart(BraillePlot, inherit_bindings=False):
    """Curves, and the keys that zoom and pan."""

    HELP_TITLE = "Chart"
    BINDINGS = [
        Binding("plus,equals_sign", "zoom_x_in", "Zoom in", id="chart.in", show=False),
        Binding("minus", "zoom_x_out", "Zoom out", id="chart.out", show=False),
        Binding("shift+up", "zoom_y_in", "Zoom in vertically", id="chart.yin", show=False),
        Binding("shift+down", "zoom_y_out", "Zoom out vertically", id="chart.yout", show=False),
        Binding("left", "pan_left", "Earlier", id="chart.left", show=False),
        Binding("right", "pan_right", "Later", id="chart.right", show=False),
        Binding("up", "pan_up", "Up", id="chart.up", show=False),
        Binding("down", "pan_down", "Down", id="chart.down", show=False),
        Binding("r", "reset_scales", "Reset view", id="chart.reset", show=False),
    ]
    margin_top, margin_bottom, margin_left = 0, 1, 8

    def __init__(self) -> None:
        super().__init__(invert_mouse_wheel=True)
        self._lines: list[ChartLine] = []
        self._prepared_lines: dict[tuple[int, bool, float], tuple[Curve, Curve]] = {}
        self._drawn_at: Size | None = None
        self.smoothing = 0.0
        self.log_scale = False
        self.set_x_formatter(StepFormatter())

    def on_mount(self) -> None:
        super().on_mount()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.redraw())

    def set_lines(self, lines: Sequence[ChartLine]) -> None:
        """Draw `lines` instead of those before."""
        self._lines = list(lines)
        self._prepared_lines.clear()
        self.redraw()

    def redraw(self) -> None:
        """Draw the visible part of the lines, downsampled to the width of the chart."""
        if not self.is_mounted:
            return
        self._drawn_at = self.size
        self.clear()
        self.set_y_formatter(LogFormatter() if self.log_scale else ValueFormatter())
        for line in self._lines:
            self._add(line)

    def _add(self, line: ChartLine) -> None:
        raw, curve = self._prepared(line)
        if visible := self.zoomed_x_range:
            raw, curve = crop(raw, *visible), crop(curve, *visible)
        if not len(raw[0]):
            return
        buckets = max(20, self.size.width)
        color = self.color(line.color)
        if self.smoothing and not line.dots:
            self._plot(minmax_downsample(raw, buckets), self._faint(color))
            self._plot(mean_downsample(curve, buckets), color)
        else:
            self._plot(minmax_downsample(raw, buckets), color)
        if (line.dots and len(raw[0]) <= buckets // 4) or len(raw[0]) == 1:
            self.scatter(*raw, marker="•", marker_style=color.hex)

    def _prepared(self, line: ChartLine) -> tuple[Curve, Curve]:
        """The whole line raw and smoothed, on the current scale; cached."""
        key = (id(line), self.log_scale, self.smoothing)
        if key not in self._prepared_lines:
            steps, values = line.curve
            if self.log_scale:
                steps, values = steps[values > 0], np.log10(values[values > 0])
            smoothed = smooth(values, 0 if line.dots else self.smoothing)
            self._prepared_lines[key] = ((steps, values), (steps, smoothed))
        return self._prepared_lines[key]

    def _plot(self, curve: Curve, color: Color) -> None:
        if len(curve[0]) > 1:
            self.plot(*curve, line_style=color.hex, hires_mode=HiResMode.BRAILLE)

    def color(self, index: int) -> Color:
        name = PALETTE[index % len(PALETTE)]
        return Color.parse(self.app.theme_variables[name])

    def _faint(self, color: Color) -> Color:
        return color.blend(Color.parse(self.app.theme_variables["background"]), 0.62)

    @on(PlotWidget.ScaleChanged)
    def _scale_changed(self) -> None:
        self.redraw()

    def on_resize(self, event: events.Resize) -> None:
        if event.size != self._drawn_at:  # it is the same if the chart was only hidden
            self.redraw()

    def action_reset_scales(self) -> None:
        super().action_reset_scales()
        self.redraw()


class ChartPanel(Vertical):
    """A chart with a legend above: title, curves and their latest values."""

    def __init__(self, title: str, id: str | None = None, classes: str | None = None):
        super().__init__(id=id, classes=classes)
        self._title = title
        self.legend = Static(id="legend-line", classes="legend")
        self.chart = Chart()

    def compose(self) -> ComposeResult:
        yield self.legend
        yield self.chart
        yield Static("waiting for the first metrics", classes="empty")

    def show_lines(self, lines: Sequence[ChartLine]) -> None:
        """Draw `lines`, or a placeholder if none has points."""
        nonempty = [line for line in lines if len(line.curve[0])]
        self.set_class(not nonempty, "-empty")
        self.legend.update(self._legend(nonempty))
        self.chart.set_lines(nonempty)

    def set_title(self, title: str) -> None:
        self._title = title

    def _legend(self, lines: Sequence[ChartLine]) -> Content:
        parts = [Content.styled(f" {self._title}", "bold $foreground")]
        for line in lines:
            value = float(line.curve[1][-1])
            text = count(value) if abs(value) >= 1000 else number(value)
            color = f"${PALETTE[line.color % len(PALETTE)]}"
            name = f" {line.label}" if line.label != self._title else ""
            parts.append(Content.assemble(("  ━", color), name, (f" {text}", "$foreground-muted")))
        marks = [f"smoothed {self.chart.smoothing:g}"] if self.chart.smoothing else []
        marks += ["log"] if self.chart.log_scale else []
        marks += ["zoomed, r resets"] if self.chart.is_zoomed else []
        if marks:
            parts.append(Content.styled("  " + ", ".join(marks), "$foreground-muted"))
        return Content("").join(parts)
