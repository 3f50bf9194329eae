"""Where the user writes: Enter sends, up and down walk through what was sent before."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding
from textual.message import Message as Event
from textual.widgets import TextArea

from kgpt_tui.shared.display import same_length


class Composer(TextArea):
    """A small editor that sends."""

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

    def __init__(self) -> None:
        super().__init__(
            id="composer", show_line_numbers=False, soft_wrap=True, highlight_cursor_line=False,
            tab_behavior="focus", compact=True,
        )  # fmt: skip
        self.prompts: list[str] = []
        self._place = 0  # in the history; its length is the text being written
        self._draft = ""

    def remember(self, text: str) -> None:
        """Add to the history."""
        if text in self.prompts:
            self.prompts.remove(text)
        self.prompts.append(text)
        self._place = len(self.prompts)

    def fill(self, text: str) -> None:
        """Replace the text, the cursor at its end."""
        self.text = text
        self.move_cursor(self.document.end)

    def get_line(self, line_index: int) -> Text:
        return Text(same_length(self.document.get_line(line_index)), end="", no_wrap=True)

    def action_send(self) -> None:
        if self.screen.accept_completion(only_partial=True):  # type: ignore[attr-defined]
            return
        text, self._place = self.text, len(self.prompts)
        self.post_message(self.Sent(text))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if not self.screen.accept_completion():  # type: ignore[attr-defined]
            self.screen.focus_next()

    def action_editor(self) -> None:
        self.screen.edit_outside(self.text, self.fill)  # type: ignore[attr-defined]

    def action_cursor_up(self, select: bool = False) -> None:
        if self.screen.move_completion(-1):  # type: ignore[attr-defined]
            return
        if self.cursor_location[0] == 0 and not select:
            self._recall(-1)
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.screen.move_completion(1):  # type: ignore[attr-defined]
            return
        if self.cursor_location[0] == self.document.line_count - 1 and not select:
            self._recall(1)
        else:
            super().action_cursor_down(select)

    def _recall(self, offset: int) -> None:
        if self._place >= len(self.prompts):
            self._place, self._draft = len(self.prompts), self.text
        place = max(0, min(self._place + offset, len(self.prompts)))
        if place != self._place:
            self._place = place
            self.fill(self.prompts[place] if place < len(self.prompts) else self._draft)
