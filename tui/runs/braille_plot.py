"""Line plots in Braille characters, 2 x 4 dots per cell, rasterized with numpy.

`BraillePlot` is the one place that uses private names of textual-plot, checked with 0.10.1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from textual_hires_canvas import Canvas
from textual_plot import PlotWidget
from textual_plot.plot_widget import LinePlot

from kgpt_tui.runs.curve import Array

BLANK = 0x2800  # the Braille character without dots
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)
Area = tuple[int, int, int, int]  # x, y, width, height in cells


class BraillePlot(PlotWidget, inherit_bindings=False):
    """textual-plot's widget with a faster way to draw dense lines."""

    @property
    def is_zoomed(self) -> bool:
        return not (self._auto_x_min and self._auto_y_min)

    @property
    def zoomed_x_range(self) -> tuple[float, float] | None:
        """The steps that are visible, or None while all are."""
        return None if self._auto_x_min else (self._x_min, self._x_max)

    def _render_line_plot(self, dataset: LinePlot) -> None:
        """Draw one line; textual-plot's own method takes ten times as long for dense curves."""
        canvas, area = self.query_one("#plot", Canvas), self._scale_rectangle
        if area.width < 1 or area.height < 1 or canvas.size.height < area.bottom:
            return
        coordinates: tuple[Any, Any] = (dataset.x, dataset.y)  # typed for scalars, takes arrays
        pixels: tuple[Any, Any] = self.get_hires_pixel_from_coordinate(*coordinates)
        cells = polyline(*pixels, (area.x, area.y, area.width, area.height))
        with canvas.batch_refresh():
            for row, column in np.argwhere(cells).tolist():
                x, y = column + area.x, row + area.y
                before = ord(canvas.get_pixel(x, y)[0]) - BLANK
                dots = int(cells[row, column]) | (before if 0 < before < 256 else 0)
                canvas.set_pixel(x, y, chr(BLANK + dots), dataset.line_style)


def polyline(xs: Array, ys: Array, area: Area) -> NDArray[np.uint8]:
    """Rasterize the line through the points (xs, ys), in cells, clipped to `area`.

    Returns: (height, width) bit masks, the Braille dots of each cell.
    """
    left, top, width, height = area
    cells: NDArray[np.uint8] = np.zeros((height, width), dtype=np.uint8)
    x, y = _clip_segments((xs - left) * 2, (ys - top) * 4, 2 * width, 4 * height)
    if not len(x):
        return cells
    x0, x1, y0, y1 = x[:, 0], x[:, 1], y[:, 0], y[:, 1]
    counts = np.ceil(np.maximum(abs(x1 - x0), abs(y1 - y0))).astype(int) + 1
    segment = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(counts) - counts, counts)
    fraction = within / np.maximum(1, counts - 1)[segment]
    px = np.clip(x0[segment] + fraction * (x1 - x0)[segment], 0, 2 * width - 1).astype(int)
    py = np.clip(y0[segment] + fraction * (y1 - y0)[segment], 0, 4 * height - 1).astype(int)
    np.bitwise_or.at(cells, (py // 4, px // 2), DOTS[py % 4, px % 2])
    return cells


def _clip_segments(xs: Array, ys: Array, width: int, height: int) -> tuple[Array, Array]:
    """Both ends of each segment clipped to the area (Liang-Barsky), two arrays of shape (S, 2)."""
    x, y = xs[:-1], ys[:-1]
    dx, dy = np.diff(xs), np.diff(ys)
    begin, end = np.zeros(len(x)), np.ones(len(x))
    for step, space in ((-dx, x), (dx, width - x), (-dy, y), (dy, height - y)):
        with np.errstate(divide="ignore", invalid="ignore"):
            at = space / step
        begin = np.where(step < 0, np.maximum(begin, at), begin)
        end = np.where(step > 0, np.minimum(end, at), end)
        end = np.where((step == 0) & (space < 0), -1.0, end)
    inside = begin <= end
    x, y, dx, dy = x[inside], y[inside], dx[inside], dy[inside]
    ends = np.stack([begin[inside], end[inside]], axis=1)
    return x[:, None] + ends * dx[:, None], y[:, None] + ends * dy[:, None]
