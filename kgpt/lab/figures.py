"""Figures as PNG or SVG, by matplotlib; nothing of it needs a display."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe & Ito
SIZE = (9.0, 5.0)  # inches
DPI = 120


def color(index: int) -> str:
    """The color of line `index`, in figures and pages alike."""
    return COLORS[index % len(COLORS)]


def new_axes(title: str, x_label: str, y_label: str) -> Axes:
    """The axes of a new figure.

    Raises `UsageError` where matplotlib is not installed.
    """
    (axes,) = new_figure(1, title)
    axes.set(xlabel=x_label, ylabel=y_label)
    return axes


def new_figure(columns: int, title: str) -> list[Axes]:
    """The axes of a new figure, side by side.

    Raises `UsageError` where matplotlib is not installed.
    """
    figure = _figure(SIZE[0] * max(1.0, columns * 0.7), SIZE[1], title)
    axes: list[Axes] = list(figure.subplots(1, columns, squeeze=False)[0])
    for one in axes:
        _style(one)
    return axes


def new_panels(layout: str, title: str) -> dict[str, Axes]:
    """The axes of a new figure by letter, in rows and columns as in "AB;CC".

    Raises `UsageError` where matplotlib is not installed.
    """
    figure = _figure(SIZE[0] * 1.2, SIZE[1] * 0.8 * len(layout.split(";")), title)
    axes: dict[str, Axes] = figure.subplot_mosaic(layout)
    for one in axes.values():
        _style(one)
    return axes


def _figure(width: float, height: float, title: str) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            'A figure needs the package matplotlib; `pip install "kgpt[plots]"`.'
        ) from None
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(literal(title))
    return figure


def _style(axes: Axes) -> None:
    axes.grid(color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(axes: Axes) -> None:
    """A legend of what was drawn with a label, if anything was."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False)


def save_png(axes: Axes, file: Path) -> None:
    """Write the figure of `axes`; raises `KgptError` if it cannot be written."""
    figure: Figure = axes.get_figure(root=True)  # type: ignore[assignment]
    with os_errors_as_kgpt(f"write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="png", dpi=DPI)


def svg(axes: Axes) -> str:
    """The figure of `axes` as SVG, the same each time."""
    import matplotlib

    figure: Figure = axes.get_figure(root=True)  # type: ignore[assignment]
    text = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kgpt"}):
        figure.savefig(text, format="svg", metadata=metadata)
    return text.getvalue()


def literal(text: str) -> str:
    """A text for a figure, where "$" would begin a formula, and "_" hide a line from the legend."""
    shown = text.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
