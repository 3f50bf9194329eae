"""Output filters: what a server's operator lets through, whatever a request asks for.

A filter is installed as a Python entry point of the group `kgpt.output_filters` and switched on by
`kgpt serve --output-filter NAME`. The entry point names a function without arguments that makes a
new filter for each answer:

    class NoDigits:
        def feed(self, text: str) -> str:      # text just written -> text that may be sent now
            return "".join(c for c in text if not c.isdigit())
        def finish(self) -> str:               # what was held back, when the answer ends
            return ""
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from kgpt.config import did_you_mean
from kgpt.errors import UsageError

GROUP = "kgpt.output_filters"


class OutputFilter(Protocol):
    """Sees one answer from its beginning to its end."""

    def feed(self, text: str) -> str:
        """What may be sent now, after `text` was written; it may be changed, or held back."""

    def finish(self) -> str:
        """What was held back and may be sent, when the answer ends."""


MakeFilter = Callable[[], OutputFilter]


def load_filters(names: Sequence[str]) -> list[MakeFilter]:
    """The makers of the filters called `names`, in that order."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or (
                f"installed are {', '.join(sorted(known))}." if known else "none is installed."
            )
            raise UsageError(f"No output filter is called {name!r}; {hint}")
    try:
        return [known[name].load() for name in names]
    except Exception as error:  # whatever an installed package does when imported
        raise UsageError(f"The output filter could not be loaded: {error}.") from None


class FilterChain:
    """The filters of one answer, one after another."""

    def __init__(self, makers: Sequence[MakeFilter]):
        self._filters = [make() for make in makers]

    def feed(self, text: str, last: bool = False) -> str:
        """Pass on `text`; with `last`, also what the filters still hold."""
        for output_filter in self._filters:
            text = output_filter.feed(text) if text else ""
            if last:
                text += output_filter.finish()
        return text
