"""A comparison as a PNG file."""

from __future__ import annotations

from pathlib import Path

from kgpt.lab.compare import AXIS_LABELS, Comparison
from kgpt.lab.figures import add_legend, color, literal, new_axes, save_png


def write_figure(comparison: Comparison, file: Path) -> None:
    """Draw the curves, what was logged pale behind what is smoothed.

    Raises:
        UsageError: matplotlib is not installed.
        KgptError: the file cannot be written.
    """
    smoothed = f", smoothed by {comparison.smoothing:g}" if comparison.smoothing else ""
    axes = new_axes(f"{comparison.metric}{smoothed}", AXIS_LABELS[comparison.axis], "")
    for index, curve in enumerate(comparison.curves):
        style = "o-" if len(curve.x) == 1 else "-"
        if curve.raw != curve.y:
            axes.plot(curve.x, curve.raw, color=color(index), alpha=0.25)
        label = curve.run if curve.x else f"{curve.run} (not logged)"
        axes.plot(curve.x, curve.y, style, color=color(index), label=literal(label))
    add_legend(axes)
    save_png(axes, file)
