"""The results of a sweep as a figure: history, importance and parallel coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kgpt.lab.figures import add_legend, color, literal, new_panels, save_png, svg
from kgpt.lab.sweeps.coordinates import compared_trials, parallel_axes
from kgpt.lab.sweeps.results import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALE = "#b8b8b8"
BEHIND_LABEL = {"boxstyle": "round,pad=0", "color": "#ffffffd0"}
COLOR_MAP = "viridis_r"  # the best trials are the darkest


def write_figure(results: SweepResult, file: Path) -> None:
    """Write a PNG; raises `UsageError` without matplotlib, `KgptError` if it cannot be written."""
    save_png(_draw(results), file)


def figure_as_svg(results: SweepResult) -> str:
    """The figure as SVG; raises `UsageError` without matplotlib."""
    return svg(_draw(results))


def _draw(results: SweepResult) -> Axes:
    axes = new_panels("HI;PP", f"{results.sweep}: {results.metric}")
    _history(axes["H"], results)
    _importance(axes["I"], results)
    _parallel(axes["P"], results)
    return axes["H"]


def _history(axes: Axes, results: SweepResult) -> None:
    """The value of each trial, and the best complete one so far."""
    from matplotlib.ticker import MaxNLocator

    axes.set(title="History", xlabel="trial", ylabel=literal(results.metric))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for state, face in (("complete", color(0)), ("pruned", PALE), ("running", color(4))):
        chosen = [one for one in results.trials if one.state == state and one.value is not None]
        if chosen:
            numbers, values = [one.number for one in chosen], [one.value for one in chosen]
            axes.plot(numbers, values, "o", color=face, label=state)  # type: ignore[arg-type]
    numbers, best = results.best_so_far()
    axes.plot(numbers, best, drawstyle="steps-post", color=color(1), label="best complete")
    add_legend(axes)


def _importance(axes: Axes, results: SweepResult) -> None:
    """A bar for each option, the most important at the top."""
    axes.set(title="Importance", xlabel=f"share, by the values at step {results.compared_at}")
    axes.grid(visible=False, axis="y")
    axes.set_axisbelow(True)
    names = [literal(key.partition(".")[2]) for key in results.importance]
    shares = list(results.importance.values())
    axes.barh(names[::-1], shares[::-1], color=color(0), height=0.6)
    axes.set_xlim(0, 1)
    for place, share in enumerate(shares[::-1]):
        axes.text(share + 0.01, place, f"{share:.0%}", va="center")
    if not names:
        axes.text(0.5, 0.5, "too few trials", ha="center", va="center", transform=axes.transAxes)


def _parallel(axes: Axes, results: SweepResult) -> None:
    """A line for each trial; where an option is not set, it is dotted."""
    import matplotlib

    trials = compared_trials(results)
    axes.set_title(literal(f"Options and {results.metric} at step {results.compared_at}"))
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    if not trials:
        axes.set_xticks([])
        return
    columns = parallel_axes(results, trials)
    colors = matplotlib.colormaps[COLOR_MAP]
    for rank in range(len(trials)):
        places = [column.places[rank] for column in columns]
        shade = colors(0.1 + 0.9 * (rank + 1) / len(trials))
        width = 2.4 if rank == len(trials) - 1 else 1.2
        known = [(at, place) for at, place in enumerate(places) if place is not None]
        axes.plot(*zip(*known, strict=True), ":", color=shade, linewidth=width)
        points = [float("nan") if place is None else place for place in places]
        axes.plot(range(len(columns)), points, "o-", color=shade, linewidth=width, markersize=4)
    for at, column in enumerate(columns):
        axes.axvline(at, color="#444", linewidth=0.8, zorder=0)
        for place, label in column.ticks:
            axes.text(
                at + 0.02, place, literal(label), fontsize=8, va="center", backgroundcolor="#fffc"
            )
    axes.set_xticks(range(len(columns)), [literal(column.name) for column in columns])
    axes.set(xlim=(-0.05, len(columns) - 0.8), ylim=(-0.06, 1.06))
