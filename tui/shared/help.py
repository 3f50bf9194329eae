"""Every key that works on a screen, generated from its bindings."""

from __future__ import annotations

from typing import Any

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.textual_private import remapped_bindings

Section = tuple[str, list[tuple[str, str]]]  # title, [(keys, what they do)]


class HelpScreen(DismissOnceMixin, ModalScreen[None]):
    """The keys of the screen below, a section for each widget that binds some."""

    CSS_PATH = "help.tcss"
    BINDINGS = [
        Binding("escape,q", "dismiss", "Close", id="help.close"),
        Binding("down,j", "scroll(1)", "Down", id="help.down", show=False),
        Binding("up,k", "scroll(-1)", "Up", id="help.up", show=False),
    ]

    def __init__(self, below: Screen[Any]):
        super().__init__(name="help")
        self._below = below

    def compose(self) -> ComposeResult:
        with Vertical(id="frame"):
            yield Static("Keys", classes="title", id="heading")
            with VerticalScroll(id="keys"):
                for title, rows in sections(self._below):
                    yield Static(_table(title, rows), classes="section")
        yield KeyBar()

    def action_scroll(self, lines: int) -> None:
        self.query_one("#keys").scroll_relative(y=lines, animate=False)


def sections(screen: Screen[Any]) -> list[Section]:
    """The keys of `screen`, its widgets and the app, by the `HELP_TITLE` of their owner."""
    # By title and description the keys, each once: several charts have the same ones.
    titles: dict[str, dict[str, dict[str, None]]] = {}
    for owner in (screen, *screen.query("*"), screen.app):
        title = getattr(owner, "HELP_TITLE", "This screen" if owner is screen else "")
        title = "Everywhere" if owner is screen.app else title
        if not title:
            continue
        for _, binding in remapped_bindings(owner, screen.app):
            if binding.description and binding.id:
                keys = titles.setdefault(title, {}).setdefault(binding.description, {})
                keys[screen.app.get_key_display(binding)] = None
    return [
        (title, [(", ".join(keys), name) for name, keys in names.items()])
        for title, names in titles.items()
    ]


def _table(title: str, rows: list[tuple[str, str]]) -> Content:
    width = max(len(keys) for keys, _ in rows)
    lines = [Content.styled(title, "bold $accent")]
    for keys, name in rows:
        lines.append(Content.assemble((f"  {keys:<{width}}  ", "$primary"), (name, "$foreground")))
    return Content("\n").join(lines)
