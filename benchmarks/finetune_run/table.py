"""The table of fine-tuning, and which goals are missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.finetune_run.rows import Goal, Row

Results = Mapping[str, Mapping[str, Any]]
HEAD = (
    "| model | trained parameters | right answers | story perplexity | chosen rate | seconds |\n"
    "|---|---:|---:|---:|---:|---:|"
)


def markdown(rows: Iterable[Row], results: Results) -> str:
    """A line for each row with results; each figure after that of the model it starts from."""
    lines = [_line(row, results) for row in rows if row.name in results]
    return "\n".join([HEAD, *lines]) + "\n"


def _line(row: Row, results: Results) -> str:
    found = results[row.name]
    before = results.get(row.base or "", {})
    cells = [
        row.name,
        f"{found['trained']:,} ({found['trained'] / found['parameters']:.1%})",
        _change(before, found, "right", "{:.1f}%"),
        _change(before, found, "perplexity", "{:.2f}"),
        _change(before, found, "chosen", "{:.1f}%"),
        f"{found['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _change(before: Mapping[str, Any], after: Mapping[str, Any], metric: str, form: str) -> str:
    values = [form.format(found[metric]) for found in (before, after) if metric in found]
    return " → ".join(values)


def missed_goals(rows: Sequence[Row], results: Results) -> list[str]:
    """A sentence for each goal that a row misses; one that cannot be judged yet is left out."""
    return [
        f"{row.name}: {goal}, but is {value:.1f}."
        for row in rows
        for goal in row.goals
        if (value := goal_value(goal, row, results)) is not None and not goal.is_met(value)
    ]


def goal_value(goal: Goal, row: Row, results: Results) -> float | None:
    """What a goal is about; None if the row it is compared with has no results."""
    found, other = results[row.name], results.get(goal.than or row.base or "")
    if goal.measure == "share":
        return 100 * float(found["trained"]) / float(found["parameters"])
    if goal.measure == "value":
        return float(found[goal.metric])
    if other is None:
        return None
    if goal.measure == "growth":
        return 100 * (float(found[goal.metric]) / float(other[goal.metric]) - 1)
    return float(found[goal.metric]) - float(other[goal.metric])
