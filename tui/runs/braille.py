"""Lines as Braille characters, two by four dots a cell, all segments at once with numpy."""

from __future__ import annotations

import numpy as np

BLANK = 0x2800
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)
Area = tuple[int, int, int, int]  # x, y, width, height in cells


def polyline(xs: np.ndarray, ys: np.ndarray, area: Area) -> np.ndarray:
    """The dots of a line through the points (xs, ys), given in cells; what lies outside is cut off.

    Returns: (height, width) bytes, the dots set in each cell of `area`.
    """
    left, top, width, height = area
    cells = np.zeros((height, width), dtype=np.uint8)
    x, y = _clipped((xs - left) * 2, (ys - top) * 4, 2 * width, 4 * height)
    if not len(x):
        return cells
    x0, x1, y0, y1 = x[:, 0], x[:, 1], y[:, 0], y[:, 1]
    counts = np.ceil(np.maximum(abs(x1 - x0), abs(y1 - y0))).astype(int) + 1
    segment = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(segment)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = within / np.maximum(1, counts - 1)[segment]
    px = np.clip(x0[segment] + share * (x1 - x0)[segment], 0, 2 * width - 1).astype(int)
    py = np.clip(y0[segment] + share * (y1 - y0)[segment], 0, 4 * height - 1).astype(int)
    np.bitwise_or.at(cells, (py // 4, px // 2), DOTS[py % 4, px % 2])
    return cells


def _clipped(xs: np.ndarray, ys: np.ndarray, width: int, height: int):
    """The parts of the segments between successive points that lie in the area: (S, 2) twice.

    Liang and Barsky's way, for all segments at once.
    """
    x, y = xs[:-1], ys[:-1]
    dx, dy = np.diff(xs), np.diff(ys)
    begin, end = np.zeros(len(x)), np.ones(len(x))
    for step, room in ((-dx, x), (dx, width - x), (-dy, y), (dy, height - y)):
        with np.errstate(divide="ignore", invalid="ignore"):
            at = room / step
        begin = np.where(step < 0, np.maximum(begin, at), begin)
        end = np.where(step > 0, np.minimum(end, at), end)
        end = np.where((step == 0) & (room < 0), -1.0, end)
    seen = begin <= end
    x, y, dx, dy = x[seen], y[seen], dx[seen], dy[seen]
    ends = np.stack([begin[seen], end[seen]], axis=1)
    return x[:, None] + ends * dx[:, None], y[:, None] + ends * dy[:, None]
