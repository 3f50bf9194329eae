"""A modal editor for a text of several lines."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static, TextArea

from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.display import pasteable, sanitize


class TextDialog(DismissOnceMixin, ModalScreen[str | None]):
    """Edits `text`; returns it, or None for Escape.

    `problem` gives what is wrong with a text, or an empty string; it is called at every key.
    """

    CSS_PATH = "text_dialog.tcss"
    HELP_TITLE = "Editing"
    BINDINGS = [
        Binding("escape", "dismiss(None)", "Cancel", id="editor.cancel", priority=True),
        Binding("ctrl+s", "accept", "Accept", id="editor.accept", priority=True),
    ]

    def __init__(
        self, title: str, text: str, hint: str = "", problem: Callable[[str], str] | None = None
    ):
        super().__init__()
        self._title, self._text, self._hint = title, pasteable(text), hint
        self._problem = problem or (lambda text: "")

    def compose(self) -> ComposeResult:
        with Vertical(id="frame"):
            yield Static(sanitize(self._title), classes="title", markup=False)
            if self._hint:
                yield Static(sanitize(self._hint), classes="hint", markup=False)
            yield TextArea(self._text, soft_wrap=True, compact=True, highlight_cursor_line=False)
            yield Static("", id="problem", markup=False)
            yield Static("ctrl+s accepts, escape cancels", classes="hint")

    def on_mount(self) -> None:
        area = self.query_one(TextArea)
        area.move_cursor(area.document.end)

    @on(TextArea.Changed)
    def _check(self) -> None:
        problem = self._problem(self.query_one(TextArea).text)
        self.query_one("#problem", Static).update(sanitize(problem))

    def action_accept(self) -> None:
        text = self.query_one(TextArea).text
        if not self._problem(text):
            self.dismiss(text)
