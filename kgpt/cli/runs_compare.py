"""`kgpt runs compare`: configurations and curves of several runs. No Keras."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.errors import UsageError
from kgpt.formatting import number
from kgpt.runs import find_run

if TYPE_CHECKING:
    from kgpt.lab.compare import Comparison

MAX_WIDTH = 100


def compare(
    *runs: str,
    metric: str = "loss",
    axis: Literal["step", "tokens", "time", "flops"] = "step",
    smoothing: float = 0.0,
    html: str | None = None,
    png: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Several runs side by side: where their configurations differ, and their curves.

    Parameters
    ----------
    runs
        The names of at least two runs.
    metric
        The metric of the curves, such as loss or val_loss.
    axis
        What the curves are drawn against; time is that of training alone.
    smoothing
        The weight of the moving average, from 0 to below 1, as in TensorBoard.
    html
        Also write the comparison to this file, which needs no other.
    png
        Also draw the curves to this file (extra `plots`).
    json_
        Print one JSON object.
    """
    from kgpt.lab.compare import compare as compare_runs
    from kgpt.lab.compare_figure import write_figure
    from kgpt.lab.compare_page import write_page

    if len(runs) < 2:
        raise UsageError("Name at least two runs to compare.")
    comparison = compare_runs([find_run(name) for name in runs], metric, axis, smoothing)
    if html is not None:
        write_page(comparison, Path(html))
    if png is not None:
        write_figure(comparison, Path(png))
    if json_:
        print(json.dumps(asdict(comparison), ensure_ascii=False))
        return
    _print(comparison)


def _print(comparison: Comparison) -> None:
    from kgpt.lab.compare import AXIS_LABELS
    from kgpt.lab.terminal_plot import STYLES, plot

    console, table = Console(), Table()
    table.add_column("")
    for i, summary in enumerate(comparison.runs):
        table.add_column(Text(summary.run, style=STYLES[i % len(STYLES)]))
    for key, values in comparison.differences.items():
        table.add_row(key, *(Text("" if value is None else str(value)) for value in values))
    table.add_section()
    table.add_row("step", *[str(summary.step) for summary in comparison.runs])
    table.add_row("loss", *[number(summary.loss) for summary in comparison.runs])
    table.add_row("best validation", *[number(one.best_val_loss) for one in comparison.runs])
    console.print(table)
    curves = [(curve.x, curve.y) for curve in comparison.curves]
    if any(x for x, _ in curves):
        title = f"{comparison.metric} by {AXIS_LABELS[comparison.axis]}"
        console.print(Text(title, style="bold"))
        console.print(plot(curves, min(console.width, MAX_WIDTH)))
