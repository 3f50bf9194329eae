"""Forks: runs that go on from a checkpoint of another run, their parent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel

from kgpt.runs.run import Run
from kgpt.runs.sweep import trials_together


class Parent(BaseModel):
    """The contents of `parent.json`: where a fork begins."""

    run: str  # its name
    path: str  # absolute
    step: int

    def __str__(self) -> str:
        return f"{self.run}@{self.step}"


def parent_of(run: Run) -> Parent | None:
    """What a run was forked from; None if it began by itself."""
    try:
        return Parent.model_validate_json((run.path / "parent.json").read_bytes())
    except (OSError, ValueError):
        return None


def fork_mark(depth: int) -> str:
    """What stands before a run's name in a list in the order of families.

    >>> fork_mark(0), fork_mark(1), fork_mark(2)
    ('', '└ ', '  └ ')
    """
    return "  " * (depth - 1) + "└ " * bool(depth)


def family_order(runs: Sequence[Run]) -> list[tuple[Run, int]]:
    """Each run with its depth in the tree of forks: forks follow their parents.

    A fork whose parent is not among `runs` stands by itself. Trials of a sweep stand together.
    Otherwise the order is kept.
    """
    by_path = {run.path.resolve(): run for run in trials_together(runs)}
    children: dict[Path | None, list[Run]] = {}
    for path, run in by_path.items():
        parent = parent_of(run)
        above = Path(parent.path).resolve() if parent else None
        children.setdefault(above if above in by_path and above != path else None, []).append(run)

    def walk(above: Path | None, depth: int) -> Iterator[tuple[Run, int]]:
        for run in children.pop(above, []):
            yield run, depth
            yield from walk(run.path.resolve(), depth + 1)

    ordered = list(walk(None, 0))
    found = {run.path for run, _ in ordered}
    return ordered + [(run, 0) for run in runs if run.path not in found]
