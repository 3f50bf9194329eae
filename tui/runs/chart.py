"""A chart of curves over steps: zoom, pan, smoothing, logarithmic scale.

However many rows a run has, at most two points a column are drawn, and the peaks among them stay.
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
from textual_hires_canvas import Canvas
from textual_plot import HiResMode, PlotWidget
from textual_plot.axis_formatter import AxisFormatter, NumericAxisFormatter
from textual_plot.plot_widget import LinePlot

from kgpt_tui.runs.braille import BLANK, polyline
from kgpt_tui.runs.metrics import Curve, extremes, means, smoothed, window
from kgpt_tui.shared.formatting import count, figure

PALETTE = ("primary", "warning", "success", "error", "accent", "secondary")
SMOOTHINGS = (0.0, 0.6, 0.9, 0.97)


def next_smoothing(now: float) -> float:
    return SMOOTHINGS[(SMOOTHINGS.index(now) + 1) % len(SMOOTHINGS)]


@dataclass(frozen=True)
class Line:
    """A curve with the name it has in the legend and its colour, an index of the palette."""

    label: str
    curve: Curve
    colour: int = 0
    dots: bool = False  # few points, such as validations: each is marked


class StepTicks(NumericAxisFormatter):
    """Steps as 500, 10k, 1.5M."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return ["" if tick < 0 else count(tick) for tick in ticks]


class ValueTicks(NumericAxisFormatter):
    """Values in few characters, large ones with a letter."""

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        largest = max((abs(tick) for tick in ticks), default=0)
        if largest >= 1000:
            return [count(tick) for tick in ticks]
        if largest and largest < 0.01:
            return [f"{tick:.1e}".replace("e-0", "e-") if tick else "0" for tick in ticks]
        gaps = [b - a for a, b in pairwise(ticks)]
        digits = max(0, -math.floor(math.log10(min(gaps)))) if gaps and min(gaps) > 0 else 2
        return [f"{tick:.{min(digits, 6)}f}" for tick in ticks]


class LogTicks(AxisFormatter):
    """An axis of decimal logarithms, labelled by the values: 1, 2, 5, 10, ..."""

    def get_ticks(self, min_: float, max_: float, max_ticks: int = 8) -> list[float]:
        powers = range(math.floor(min_), math.ceil(max_) + 1)
        if max_ - min_ < 0.35:  # too near for 1, 2, 5: even steps of the value itself
            plain = NumericAxisFormatter().get_ticks(10**min_, 10**max_, max_ticks)
            return [math.log10(tick) for tick in plain if tick > 0]
        digits = (1, 2, 5) if max_ - min_ < 3 else (1,)
        ticks = [power + math.log10(digit) for power in powers for digit in digits]
        inside = [tick for tick in ticks if min_ <= tick <= max_]
        return inside[:: 1 + len(inside) // (max_ticks + 1)]

    def get_labels_for_ticks(self, ticks: Sequence[float]) -> list[str]:
        return [f"{10**tick:.3g}".replace("e-0", "e-") for tick in ticks]


class Chart(PlotWidget, inherit_bindings=False):
    """Curves, and the keys that move them."""

    HELP_TITLE = "Chart"
    BINDINGS = [
        Binding("plus,equals_sign", "zoom_x_in", "Zoom in", id="chart.in", show=False),
        Binding("minus", "zoom_x_out", "Zoom out", id="chart.out", show=False),
        Binding("shift+up", "zoom_y_in", "Zoom in, upright", id="chart.yin", show=False),
        Binding("shift+down", "zoom_y_out", "Zoom out, upright", id="chart.yout", show=False),
        Binding("left", "pan_left", "Earlier", id="chart.left", show=False),
        Binding("right", "pan_right", "Later", id="chart.right", show=False),
        Binding("up", "pan_up", "Up", id="chart.up", show=False),
        Binding("down", "pan_down", "Down", id="chart.down", show=False),
        Binding("r", "reset_scales", "Reset view", id="chart.reset", show=False),
    ]
    margin_top, margin_bottom, margin_left = 0, 1, 8

    def __init__(self, **named):
        super().__init__(invert_mouse_wheel=True, **named)
        self._lines: list[Line] = []
        self._kept: dict[tuple[int, bool, float], tuple[Curve, Curve]] = {}
        self._drawn_at: Size | None = None
        self.smoothing = 0.0
        self.log_scale = False
        self.set_x_formatter(StepTicks())

    def on_mount(self) -> None:
        super().on_mount()
        self.app.theme_changed_signal.subscribe(self, lambda _: self.redraw())

    @property
    def is_zoomed(self) -> bool:
        return not (self._auto_x_min and self._auto_y_min)

    def draw(self, lines: Sequence[Line]) -> None:
        self._lines = list(lines)
        self._kept.clear()
        self.redraw()

    def redraw(self) -> None:
        """Draw what is visible of the lines, at the width there is."""
        if not self.is_mounted:
            return
        self._drawn_at = self.size
        self.clear()
        self.set_y_formatter(LogTicks() if self.log_scale else ValueTicks())
        for line in self._lines:
            self._add(line)

    def _add(self, line: Line) -> None:
        raw, curve = self._prepared(line)
        if not self._auto_x_min:
            raw, curve = (window(c, self._x_min, self._x_max) for c in (raw, curve))
        if not len(raw[0]):
            return
        buckets = max(20, self.size.width)
        colour = self.colour(line.colour)
        if self.smoothing and not line.dots:
            self._plot(extremes(raw, buckets), self._faint(colour))
            self._plot(means(curve, buckets), colour)
        else:
            self._plot(extremes(raw, buckets), colour)
        if (line.dots and len(raw[0]) <= buckets // 4) or len(raw[0]) == 1:
            self.scatter(*raw, marker="•", marker_style=colour.hex)

    def _prepared(self, line: Line) -> tuple[Curve, Curve]:
        """The whole line as it is and smoothed, on the scale chosen; kept until it changes."""
        key = (id(line), self.log_scale, self.smoothing)
        if key not in self._kept:
            steps, values = line.curve
            if self.log_scale:
                steps, values = steps[values > 0], np.log10(values[values > 0])
            smooth = smoothed(values, 0 if line.dots else self.smoothing)
            self._kept[key] = ((steps, values), (steps, smooth))
        return self._kept[key]

    def _plot(self, curve: Curve, colour: Color) -> None:
        if len(curve[0]) > 1:
            self.plot(*curve, line_style=colour.hex, hires_mode=HiResMode.BRAILLE)

    def _render_line_plot(self, dataset: LinePlot) -> None:
        """Draw one line; the library's own way takes ten times as long for dense curves."""
        canvas, area = self.query_one("#plot", Canvas), self._scale_rectangle
        if area.width < 1 or area.height < 1 or canvas.size.height < area.bottom:
            return
        xs, ys = self.get_hires_pixel_from_coordinate(dataset.x, dataset.y)
        cells = polyline(xs, ys, (area.x, area.y, area.width, area.height))
        with canvas.batch_refresh():
            for row, column in np.argwhere(cells).tolist():
                x, y = column + area.x, row + area.y
                before = ord(canvas.get_pixel(x, y)[0]) - BLANK
                dots = int(cells[row, column]) | (before if 0 < before < 256 else 0)
                canvas.set_pixel(x, y, chr(BLANK + dots), dataset.line_style)

    def colour(self, index: int) -> Color:
        name = PALETTE[index % len(PALETTE)]
        return Color.parse(self.app.theme_variables[name])

    def _faint(self, colour: Color) -> Color:
        return colour.blend(Color.parse(self.app.theme_variables["background"]), 0.62)

    @on(PlotWidget.ScaleChanged)
    def _show_detail(self, event: PlotWidget.ScaleChanged) -> None:
        self.redraw()

    def on_resize(self, event: events.Resize) -> None:
        if event.size != self._drawn_at:  # else it was only hidden
            self.redraw()

    def action_reset_scales(self) -> None:
        super().action_reset_scales()
        self.redraw()


class ChartPanel(Vertical):
    """A chart under a line that names it, its curves and their latest values."""

    def __init__(self, title: str, id: str | None = None, classes: str | None = None):
        super().__init__(id=id, classes=classes)
        self._title = title
        self.legend = Static(id="legend-line", classes="legend")
        self.chart = Chart()

    def compose(self) -> ComposeResult:
        yield self.legend
        yield self.chart
        yield Static("waiting for the first figures", classes="empty")

    def draw(self, lines: Sequence[Line]) -> None:
        """Show `lines`; without points a sentence stands in their place."""
        full = [line for line in lines if len(line.curve[0])]
        self.set_class(not full, "-empty")
        self.legend.update(self._legend(full))
        self.chart.draw(full)

    def rename(self, title: str) -> None:
        self._title = title

    def _legend(self, lines: Sequence[Line]) -> Content:
        parts = [Content.styled(f" {self._title}", "bold $foreground")]
        for line in lines:
            value = float(line.curve[1][-1])
            shown = count(value) if abs(value) >= 1000 else figure(value)
            colour = f"${PALETTE[line.colour % len(PALETTE)]}"
            name = f" {line.label}" if line.label != self._title else ""
            parts.append(
                Content.assemble(("  ━", colour), name, (f" {shown}", "$foreground-muted"))
            )
        marks = [f"smoothed {self.chart.smoothing:g}"] if self.chart.smoothing else []
        marks += ["log"] if self.chart.log_scale else []
        marks += ["zoomed, r resets"] if self.chart.is_zoomed else []
        if marks:
            parts.append(Content.styled("  " + ", ".join(marks), "$foreground-muted"))
        return Content("").join(parts)
