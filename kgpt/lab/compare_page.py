"""A comparison as one HTML file, which needs no other."""

from __future__ import annotations

from html import escape
from pathlib import Path

from kgpt.files import os_errors_as_kgpt, write_text
from kgpt.formatting import NONE, count, number
from kgpt.lab.compare import AXIS_LABELS, Comparison, Curve
from kgpt.lab.figures import color
from kgpt.lab.html import document, table

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 420, 70, 40, 12
TICKS = 5


def write_page(comparison: Comparison, file: Path) -> None:
    """Write the HTML; raises `KgptError` if it cannot be written."""
    with os_errors_as_kgpt(f"write {file}"):
        write_text(file, page(comparison))


def page(comparison: Comparison) -> str:
    """The HTML of a comparison: summary, curves, and the options that differ."""
    names = [summary.run for summary in comparison.runs]
    title = f"{comparison.metric}: {', '.join(names)}"
    heads = [
        f'<span class="key" style="background:{color(i)}"></span>{escape(name)}'
        for i, name in enumerate(names)
    ]
    summary = [
        ["step", *(str(one.step) for one in comparison.runs)],
        ["loss", *(number(one.loss) for one in comparison.runs)],
        ["best validation loss", *(number(one.best_val_loss) for one in comparison.runs)],
    ]
    options = [
        [key, *(NONE if value is None else str(value) for value in values)]
        for key, values in comparison.differences.items()
    ]
    smoothed = f", smoothed by {comparison.smoothing:g}" if comparison.smoothing else ""
    return document(
        title,
        f"{table(heads, summary)}\n<h2>{escape(comparison.metric)}{smoothed}</h2>\n"
        f"{_svg(comparison)}\n<h2>Options that differ</h2>\n{table(heads, options)}",
    )


def _svg(comparison: Comparison) -> str:
    """The curves, what was logged pale behind what is smoothed."""
    xs = [x for curve in comparison.curves for x in curve.x]
    ys = [y for curve in comparison.curves for y in curve.raw]
    if not xs:
        return "<p>No run has logged it yet.</p>"
    scale = _Scale(min(xs), max(xs), min(ys), max(ys))
    parts = []
    for i in range(TICKS + 1):
        x = scale.left + (scale.right - scale.left) * i / TICKS
        y = scale.low + (scale.high - scale.low) * i / TICKS
        parts += [
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{scale.y(y)}" y2="{scale.y(y)}"/>',
            f'<text x="{LEFT - 8}" y="{scale.y(y)}" dy=".3em" text-anchor="end">{number(y)}</text>',
            f'<text x="{scale.x(x)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{count(x)}</text>",
        ]
    parts += [_paths(curve, scale, color(i)) for i, curve in enumerate(comparison.curves)]
    label = AXIS_LABELS[comparison.axis]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{label}</text>')
    return f'<svg viewBox="0 0 {WIDTH + 30} {HEIGHT}" role="img">\n' + "\n".join(parts) + "\n</svg>"


class _Scale:
    """From values to the picture."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.right, self.low, self.high = left, right, low, high

    def x(self, value: float) -> float:
        share = (value - self.left) / ((self.right - self.left) or 1.0)
        return round(LEFT + share * (WIDTH - LEFT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def _paths(curve: Curve, scale: _Scale, stroke: str) -> str:
    kinds = [("raw", curve.raw), ("line", curve.y)] if curve.y != curve.raw else [("line", curve.y)]
    paths = []
    for kind, values in kinds:
        points = [f"{scale.x(x)} {scale.y(y)}" for x, y in zip(curve.x, values, strict=True)]
        if points:
            paths.append(f'<path class="{kind}" stroke="{stroke}" d="M{" L".join(points)}"/>')
    return "".join(paths)
