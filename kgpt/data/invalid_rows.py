"""Rows that cannot be used: the first one is refused, or all are left out and counted."""

from __future__ import annotations

from kgpt.errors import DataError

SHOWN = 5


class InvalidRows:
    """Collects the rows of data files that cannot be used.

    Args:
        skip: leave such rows out; without it the first one is refused.

    Attributes:
        count: how many rows were left out.
        first: the sentences of the first five, each with file and line.
    """

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.clear()

    def clear(self) -> None:
        """Forget what was counted; the files are read again from the beginning."""
        self.count = 0
        self.first: list[str] = []

    def add(self, error: DataError) -> None:
        """Count a row; raises `error` unless such rows are skipped."""
        if not self.skip:
            raise error from None
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(str(error))

    def take(self, other: InvalidRows) -> None:
        """Add the rows that `other` has counted, which forgets them."""
        self.count += other.count
        self.first = [*self.first, *other.first][:SHOWN]
        other.clear()

    @property
    def notes(self) -> list[str]:
        """Lines for people: how many rows were left out, and why the first five were."""
        if not self.count:
            return []
        more = [f"and {self.count - SHOWN:,} more"] if self.count > SHOWN else []
        return [f"Rows left out: {self.count:,}", *(f"  {line}" for line in [*self.first, *more])]
