"""Every key that works on a screen, generated from its bindings: it cannot be out of date."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.key_bar import KeyBar


class HelpScreen(DismissOnceMixin, ModalScreen[None]):
    """The keys of the screen below, by the widget that owns them."""

    CSS_PATH = "help.tcss"
    BINDINGS = [
        Binding("escape,q", "dismiss", "Close", id="help.close"),
        Binding("down,j", "scroll(1)", "Down", id="help.down", show=False),
        Binding("up,k", "scroll(-1)", "Up", id="help.up", show=False),
    ]

    def __init__(self, below: Screen):
        super().__init__(id="help")
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


def sections(screen: Screen) -> list[tuple[str, list[tuple[str, str]]]]:
    """(owner, [(keys, what they do)]) of every binding on `screen` that names what it does."""
    owners = [screen, *screen.query("*"), screen.app]
    found: dict[str, dict[str, str]] = {}
    for owner in owners:
        help_title = getattr(owner, "HELP_TITLE", None)
        if owner is screen.app:
            help_title = "Everywhere"
        elif owner is screen:
            help_title = help_title or "This screen"
        if not help_title:
            continue
        for keys, (_, binding, *_rest) in _active(screen, owner):
            if binding.description and binding.id:
                shown = screen.app.get_key_display(binding)
                name = binding.description
                rows = found.setdefault(help_title, {})
                rows[name] = f"{rows[name]}, {shown}" if name in rows else shown
                del keys
    return [(title, [(keys, name) for name, keys in rows.items()]) for title, rows in found.items()]


def _active(screen: Screen, owner) -> list:
    """Bindings of `owner` as they are now, after the user's remapping."""
    bindings = owner._bindings.copy()
    bindings.apply_keymap(screen.app._keymap)
    return [(key, (owner, binding)) for key, binding in bindings]


def _table(title: str, rows: list[tuple[str, str]]) -> Content:
    width = max(len(keys) for keys, _ in rows)
    lines = [Content.styled(title, "bold $accent")]
    for keys, name in rows:
        lines.append(Content.assemble((f"  {keys:<{width}}  ", "$primary"), (name, "$foreground")))
    return Content("\n").join(lines)
