"""The results of a sweep as one HTML file, which needs no other."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from kgpt.files import os_errors_as_kgpt, write_text
from kgpt.formatting import NONE, number
from kgpt.lab.html import document, table
from kgpt.lab.sweeps.figure import figure_as_svg
from kgpt.lab.sweeps.results import SweepResult


def write_page(results: SweepResult, file: Path) -> None:
    """Write the HTML.

    Raises `UsageError` without matplotlib, `KgptError` if it cannot be written.
    """
    html = page(results)
    with os_errors_as_kgpt(f"write {file}"):
        write_text(file, html)


def page(results: SweepResult) -> str:
    """The HTML of a sweep: the best configuration, the figure, and all trials."""
    figure = base64.b64encode(figure_as_svg(results).encode()).decode()
    alt = f"History of {results.metric}, importance of the options, and parallel coordinates"
    keys = list(dict.fromkeys(key for trial in results.trials for key in trial.params))
    rows = [
        [
            trial.run, trial.state, str(trial.step), number(trial.value),
            *(shown(trial.params.get(key)) for key in keys),
        ]
        for trial in results.in_order
    ]  # fmt: skip
    heads = ["state", "step", results.metric, *(key.partition(".")[2] for key in keys)]
    errors = [
        f"<li>{escape(f'{one.run}: {one.error}')}</li>" for one in results.trials if one.error
    ]
    body = (
        f"<p>{escape(summary(results))}</p>\n"
        f'<img alt="{escape(alt)}" style="width:100%" src="data:image/svg+xml;base64,{figure}">\n'
        f"<h2>Trials</h2>\n{table([escape(head) for head in heads], rows)}\n"
        f"<ul>{''.join(f'<li>{escape(error)}</li>' for error in errors)}</ul>"
    )
    if results.best_config:
        text = Path(results.best_config).read_text(encoding="utf-8")
        title = "<summary>Configuration of the best trial</summary>"
        body += f"\n<details>{title}<pre>{escape(text)}</pre></details>"
    return document(f"Sweep {results.sweep}", body)


def summary(results: SweepResult) -> str:
    """How many trials and steps, and the best, in a sentence."""
    states = [trial.state for trial in results.trials]
    counts = [f"{states.count(state)} {state}" for state in dict.fromkeys(states)]
    text = (
        f"{len(states)} of {results.total} trials ({', '.join(counts)}) by {results.sampler}, in "
        f"{results.steps:,} steps, {results.steps / results.full_steps:.0%} of those of all trials."
    )
    if results.best is not None:
        best = results.trials[results.best]
        values = ", ".join(f"{key} {shown(value)}" for key, value in best.params.items())
        text += f" The best is {best.run}: {results.metric} {number(best.value)} with {values}."
    return text


def shown(value: object) -> str:
    """A value of an option in a few characters."""
    return NONE if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
