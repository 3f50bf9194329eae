"""The option --adapter: adapters of a model by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kgpt.errors import UsageError
from kgpt.runs import resolve_model


def parse_adapters(given: Iterable[str]) -> dict[str, Path]:
    """Folders by name from NAME=FOLDER, or a folder or run alone, whose name it takes."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, source = text.partition("=")
        if not equals or "/" in name:
            name, source = Path(text).resolve().name, text
        if name in found:
            raise UsageError(f"Two adapters are called {name!r}; name one: --adapter NAME=FOLDER.")
        found[name] = resolve_model(source)
    return found
