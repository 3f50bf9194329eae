"""A run as an experiment tracker has it: a configuration, and numbers by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kgpt.runs import State

Row = dict[str, Any]


@dataclass
class TrackedRun:
    """What is read from, or written to, the files of a tracker.

    Attributes:
        config: as the tracker has it, sections within sections.
        rows: by step, each with `step`, `time` (seconds since 1970) and numbers by name.
        state: how it ended, where the tracker says so.
        skipped: how many values are no numbers, by kind: text, histogram, ...
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    state: State | None = None
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def metrics(self) -> list[str]:
        """The names of the numbers, in the order in which they appear."""
        return [
            name for name in {key: None for row in self.rows for key in row} if name not in BASE
        ]

    def add_row(self, step: int, time: float, values: dict[str, Any]) -> None:
        """Add the numbers of nested values; see `numbers_of`."""
        found = numbers_of(values, self.skipped)
        others = {f"logged_{key}" if key in BASE else key: value for key, value in found.items()}
        self.rows.append({"step": step, "time": time, **others})

    def sort_rows(self) -> None:
        """One row a step, in the order of steps; a value that is logged again replaces the first.

        So does a run that went on from a checkpoint and logged some steps twice.
        """
        merged: dict[int, Row] = {}
        for row in self.rows:
            merged.setdefault(row["step"], {}).update(row)
        self.rows = [merged[step] for step in sorted(merged)]


BASE = ("step", "time")


def flatten(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options of nested sections by dotted name.

    >>> dict(flatten({"train": {"lr": 0.1}, "seed": 1}))
    {'train.lr': 0.1, 'seed': 1}
    """
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def is_number(value: object) -> bool:
    """Can it be drawn as a curve? Infinities and NaN can be logged, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def numbers_of(values: dict[str, Any], skipped: Counter[str], prefix: str = "") -> Row:
    """The numbers of nested values by dotted name; what else there is, is counted in `skipped`.

    A value with the key `_type`, such as a histogram or an image, is one of that kind.
    """
    found: Row = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if is_number(value):
            found[name] = value
        elif isinstance(value, dict) and "_type" not in value:
            found |= numbers_of(value, skipped, f"{name}.")
        elif value is not None:
            skipped[_kind(value)] += 1
    return found


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return str(value["_type"]).rpartition(".")[2]
    names = {str: "text", bool: "true or false", list: "list"}
    return names.get(type(value), type(value).__name__)
