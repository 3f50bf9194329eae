"""Output filters: plugins with which an operator changes or withholds generated text.

A filter is a Python entry point of the group `kgpt.output_filters`, switched on by
`kgpt serve --output-filter NAME`. The entry point names a function without arguments that returns
a new filter for each completion:

    class NoDigits:
        def feed(self, text: str) -> str:      # new text -> text that may be sent now
            return "".join(c for c in text if not c.isdigit())
        def finish(self) -> str:               # buffered text, when the completion ends
            return ""
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Protocol

from kgpt.config import did_you_mean
from kgpt.errors import UsageError

ENTRY_POINT_GROUP = "kgpt.output_filters"


class OutputFilter(Protocol):
    """Filters the text of one completion."""

    def feed(self, text: str) -> str:
        """What may be sent now that `text` was generated; it may be changed or buffered."""

    def finish(self) -> str:
        """The buffered text that may still be sent when the completion ends."""


FilterFactory = Callable[[], OutputFilter]


def load_filters(names: Sequence[str]) -> list[FilterFactory]:
    """The factories of the filters called `names`, in that order.

    Raises:
        UsageError: there is no such filter, or it cannot be imported.
    """
    installed = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    for name in names:
        if name not in installed:
            hint = did_you_mean(name, installed) or (
                f"installed are {', '.join(sorted(installed))}."
                if installed
                else "none is installed."
            )
            raise UsageError(f"No output filter is called {name!r}; {hint}")
    try:
        return [installed[name].load() for name in names]
    except Exception as error:  # whatever an installed package raises on import
        raise UsageError(f"The output filter could not be loaded: {error}.") from None


class FilterChain:
    """The filters of one completion, one after another."""

    def __init__(self, factories: Sequence[FilterFactory]):
        self._filters = [factory() for factory in factories]

    def feed(self, text: str, last: bool = False) -> str:
        """Filter `text`; with `last`, flush what the filters buffer too."""
        for output_filter in self._filters:
            text = output_filter.feed(text) if text else ""
            if last:
                text += output_filter.finish()
        return text
