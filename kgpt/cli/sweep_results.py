"""The results of a sweep in a terminal: a table, and plots in text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.formatting import number

if TYPE_CHECKING:
    from kgpt.lab.sweeps.coordinates import CoordinateAxis
    from kgpt.lab.sweeps.results import SweepResult, TrialResult

STATES = {"complete": "green", "pruned": "dim", "failed": "red", "running": "yellow"}
BETTER, OTHERS, AXES = "cyan", "bright_black", "dim"  # the best quarter of the lines, and others
MAX_WIDTH = 100
HEIGHT = 10  # lines of a plot
BAR = 30  # characters of an importance of 1


def show(results: SweepResult, console: Console) -> None:
    """Print the trials, the best first; history, importance, parallel coordinates; what is next."""
    from kgpt.lab.sweeps.page import summary

    width = min(console.width, MAX_WIDTH)
    console.print(_table(results))
    for trial in results.trials:
        if trial.error:
            console.print(Text(f"{trial.run}: {trial.error}", style="red"), soft_wrap=True)
    if sum(trial.value is not None for trial in results.trials) > 1:
        _print_plot(
            console,
            "History: each trial, and the best complete one so far",
            _history(results, width),
        )
    if results.importance:
        title = f"Importance, by {results.metric} at step {results.compared_at}"
        _print_plot(console, title, _bars(results.importance))
        title = f"Options and {results.metric} at step {results.compared_at}, the best bright"
        _print_plot(console, title, _parallel(results, width))
    console.print(Text(summary(results)), soft_wrap=True)
    if results.best_config:
        again = f"Train the best again with: kgpt train {results.best_config}"
        console.print(Text(again), soft_wrap=True)


def _print_plot(console: Console, title: str, plot: Text) -> None:
    console.print(Text(title, style="bold"))
    console.print(plot)


def _table(results: SweepResult) -> Table:
    from kgpt.lab.sweeps.page import shown

    table = Table()
    keys = list(dict.fromkeys(key for trial in results.trials for key in trial.params))
    for column in ("run", "state", "step", results.metric):
        table.add_column(column, justify="right" if column in ("step", results.metric) else "left")
    for key in keys:
        table.add_column(key.partition(".")[2], justify="right")
    for trial in results.in_order:
        table.add_row(*_cells(trial), *(Text(shown(trial.params.get(key))) for key in keys))
    return table


def _cells(trial: TrialResult) -> tuple[Text, ...]:
    state = Text(trial.state, style=STATES[trial.state])
    return Text(trial.run), state, Text(str(trial.step)), Text(number(trial.value))


def _history(results: SweepResult, width: int) -> Text:
    from kgpt.lab.terminal_plot import plot

    known = [(trial.number, trial.value) for trial in results.trials if trial.value is not None]
    points = [([float(at)], [value]) for at, value in known]
    numbers, best = results.best_so_far()
    line = ([float(at) for at in numbers], best)
    styles = [OTHERS] * len(points) + [BETTER]
    return plot([*points, line], width, HEIGHT, lambda x: f"trial {x:.0f}", styles=styles)


def _bars(shares: dict[str, float]) -> Text:
    width = max(len(key) for key in shares)
    text = Text()
    for key, share in shares.items():
        text.append(f"{key:>{width}} │", style="dim").append("█" * round(BAR * share), style=BETTER)
        text.append(f" {share:.0%}\n")
    return text


def _parallel(results: SweepResult, width: int) -> Text:
    """A line for each trial over an axis for each option, the metric at the right."""
    from kgpt.lab.sweeps.coordinates import compared_trials, parallel_axes
    from kgpt.lab.terminal_plot import LABEL, plot

    trials = compared_trials(results)
    axes = parallel_axes(results, trials)
    curves = [([float(at)] * 2, [0.0, 1.0]) for at in range(len(axes))]
    styles = [AXES] * len(axes)
    for rank in range(len(trials)):
        places = [(float(at), axis.places[rank]) for at, axis in enumerate(axes)]
        points = [(at, place) for at, place in places if place is not None]
        curves.append(([at for at, _ in points], [place for _, place in points]))
        styles.append(BETTER if rank >= len(trials) * 3 // 4 else OTHERS)
    drawn = plot(curves, width, HEIGHT, lambda _: "", lambda y: "high" if y else "low", styles)
    drawn.right_crop(width)  # the line for the limits of x
    return drawn.append(_labels(axes, LABEL + 2, width - LABEL - 2), style="dim")


def _labels(axes: list[CoordinateAxis], left: int, columns: int) -> str:
    """Names and domains beneath the axes, of which the first is at the left and the last right."""
    room, gaps = max(4, columns // len(axes) - 1), max(1, len(axes) - 1)
    lines = []
    for texts in ([axis.name for axis in axes], [_domain(axis) for axis in axes]):
        line = ""
        for at, text in enumerate(texts):
            text = text if len(text) <= room else f"{text[: room - 1]}…"
            middle = round(at / gaps * (columns - 1))
            start = min(middle - len(text) // 2, columns - len(text))
            line = line.ljust(max(start, len(line) + 1 if line else 0)) + text
        lines.append(" " * left + line)
    return "\n".join(lines)


def _domain(axis: CoordinateAxis) -> str:
    labels = [label for _, label in axis.ticks]
    return "|".join(labels) if len(labels) != 2 else "..".join(labels)
