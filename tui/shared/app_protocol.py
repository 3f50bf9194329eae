"""What screens know of the app: its command-line options, its settings, and the way to other
screens. Screens depend on this protocol and never import one another or the app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from textual.dom import DOMNode

from kgpt_tui.shared.settings import Settings


@dataclass(frozen=True)
class Options:
    """Command-line options of `kgpt-tui`."""

    model: str | None = None
    server: str | None = None
    api_key_file: Path | None = None
    run: str | None = None
    settings: Path | None = None
    data: Path | None = None


class AppProtocol(Protocol):
    """The part of `KgptApp` that screens and widgets use beside Textual's own."""

    options: Options

    @property
    def settings(self) -> Settings: ...

    def save_settings(self, **changes: Any) -> None: ...

    def open_chat(self, model: str | None = None) -> None: ...

    def open_run(self, run: Path | str) -> None: ...

    def open_train(self) -> None: ...

    def action_help(self) -> None: ...


def kgpt_app(node: DOMNode) -> AppProtocol:
    """The app that `node` belongs to, typed as kgpt's."""
    return cast(AppProtocol, node.app)
