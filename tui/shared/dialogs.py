"""Small questions on top of a screen: yes or no, one of several, a line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Input, Static

from kgpt_tui.shared.display import sanitize


class DismissOnceMixin(Screen[Any]):
    """A screen that a key pressed twice in haste closes once, and never the one below it."""

    def dismiss(self, result: Any = None) -> AwaitComplete:
        return super().dismiss(result) if self.is_current else AwaitComplete.nothing()


class ChoiceDialog(DismissOnceMixin, ModalScreen[str | None]):
    """A question with a button an answer; gives the answer's key, or None for Escape."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("left,up", "app.focus_previous", "Before", id="dialog.before", show=False),
        Binding("right,down", "app.focus_next", "Next", id="dialog.next", show=False),
    ]

    def __init__(self, title: str, detail: str, choices: dict[str, str], grave: str = ""):
        """`choices` are labels by key, a letter each; `grave` is the key of one in red."""
        super().__init__()
        self._texts = (title, detail)
        self._choices, self._grave = choices, grave

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(sanitize(self._texts[0]), classes="title", markup=False)
            yield Static(sanitize(self._texts[1]), classes="detail", markup=False)
            with Horizontal(id="buttons"):
                for key, label in self._choices.items():
                    variant = "error" if key == self._grave else "default"
                    yield Button(f"{label} [{key}]".replace("[", r"\["), id=f"choice-{key}",
                                 variant=variant, compact=True)  # fmt: skip

    def on_key(self, event) -> None:
        if event.key in self._choices:
            event.stop()
            self.dismiss(event.key)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss((event.button.id or "").removeprefix("choice-"))


class InputDialog(DismissOnceMixin, ModalScreen[str | None]):
    """A line of text; gives it, or None for Escape. `problem` says what is wrong with it."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS = [Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel")]

    def __init__(
        self, title: str, detail: str, value: str = "", problem: Callable[[str], str] | None = None
    ):
        super().__init__()
        self._texts = (title, detail)
        self._value, self._problem = value, problem or (lambda text: "")

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(sanitize(self._texts[0]), classes="title", markup=False)
            yield Static(sanitize(self._texts[1]), classes="detail", markup=False)
            yield Input(self._value, compact=True)
            yield Static("", classes="problem", markup=False)
            yield Static("enter accepts, escape cancels", classes="hint")

    @on(Input.Changed)
    def _check(self, event: Input.Changed) -> None:
        self.query_one(".problem", Static).update(sanitize(self._problem(event.value)))

    @on(Input.Submitted)
    def _accept(self, event: Input.Submitted) -> None:
        if not self._problem(event.value):
            self.dismiss(event.value)
