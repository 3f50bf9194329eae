"""The input of a chat: Enter sends, up and down recall earlier prompts, / lists the commands."""

from __future__ import annotations

from rich.text import Text
from textual import on
from textual.binding import Binding
from textual.message import Message as Event
from textual.widgets import TextArea

from kgpt.errors import KgptError
from kgpt_tui.chat.commands import matching
from kgpt_tui.chat.completions import Completions
from kgpt_tui.chat.external_editor import edit_externally
from kgpt_tui.shared.display import same_length, sanitize


class Composer(TextArea):
    """A small editor that posts `Sent` with its text."""

    HELP_TITLE = "Writing"
    BINDINGS = [
        Binding("enter", "send", "Send", id="composer.send", priority=True),
        Binding("ctrl+j,shift+enter", "newline", "New line", id="composer.newline", show=False),
        Binding("ctrl+o", "editor", "Open in $EDITOR", id="composer.editor", show=False),
        Binding("tab", "complete", "Complete", id="composer.complete", show=False),
    ]

    class Sent(Event):
        """The user pressed Enter."""

        def __init__(self, text: str):
            super().__init__()
            self.text = text

    def __init__(self, completions: Completions) -> None:
        super().__init__(
            id="composer", show_line_numbers=False, soft_wrap=True, highlight_cursor_line=False,
            tab_behavior="focus", compact=True,
        )  # fmt: skip
        self.prompts: list[str] = []
        self._completions = completions
        self._index = 0  # in the history; its length stands for the text being written
        self._draft = ""

    def remember(self, text: str) -> None:
        """Add to the history."""
        if text in self.prompts:
            self.prompts.remove(text)
        self.prompts.append(text)
        self._index = len(self.prompts)

    def fill(self, text: str) -> None:
        """Replace the text, the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def get_line(self, line_index: int) -> Text:
        return Text(same_length(self.document.get_line(line_index)), end="", no_wrap=True)

    @on(TextArea.Changed)
    def _changed(self) -> None:
        self._completions.show(matching(self.text))

    def complete(self, only_partial: bool = False) -> bool:
        """Take the command under the cursor; with `only_partial` not one that is complete."""
        chosen = self._completions.chosen
        if chosen is None:
            return False
        if only_partial and (self.text == f"/{chosen.name}" or not chosen.needs_argument):
            self.fill(f"/{chosen.name}")
            return False
        self.fill(f"/{chosen.name} ")
        return True

    def action_send(self) -> None:
        if self.complete(only_partial=True):
            return
        text, self._index = self.text, len(self.prompts)
        self.post_message(self.Sent(text))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if not self.complete():
            self.screen.focus_next()

    def action_editor(self) -> None:
        try:
            self.fill(edit_externally(self.app, self.text))
        except KgptError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)

    def action_cursor_up(self, select: bool = False) -> None:
        if self._completions.move(-1):
            return
        if self.cursor_location[0] == 0 and not select:
            self._recall(-1)
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self._completions.move(1):
            return
        if self.cursor_location[0] == self.document.line_count - 1 and not select:
            self._recall(1)
        else:
            super().action_cursor_down(select)

    def _recall(self, offset: int) -> None:
        if self._index >= len(self.prompts):
            self._index, self._draft = len(self.prompts), self.text
        index = max(0, min(self._index + offset, len(self.prompts)))
        if index != self._index:
            self._index = index
            self.fill(self.prompts[index] if index < len(self.prompts) else self._draft)
