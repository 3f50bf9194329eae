"""Small modal dialogs: a choice between buttons, and a line of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual import events, on
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Button, Input, Static

from kgpt_tui.shared.display import sanitize


class DismissOnceMixin(Screen[Any]):
    """A screen that dismisses itself once, and never the one below, if a key is hit twice."""

    def dismiss(self, result: Any = None) -> AwaitComplete:
        return super().dismiss(result) if self.is_current else AwaitComplete.nothing()  # type: ignore[no-untyped-call]


class ChoiceDialog(DismissOnceMixin, ModalScreen[str | None]):
    """A question with one button per answer.

    Args:
        title: the question.
        detail: what the answers mean.
        choices: button labels by key, each key a single letter.
        destructive: the key of the button shown in red.

    Returns the key of the answer, or None for Escape.
    """

    CSS_PATH = "dialogs.tcss"
    BINDINGS = [
        Binding("escape", "dismiss(None)", "Cancel", id="dialog.cancel"),
        Binding("left,up", "app.focus_previous", "Previous", id="dialog.before", show=False),
        Binding("right,down", "app.focus_next", "Next", id="dialog.next", show=False),
    ]

    def __init__(self, title: str, detail: str, choices: dict[str, str], destructive: str = ""):
        super().__init__()
        self._texts = (title, detail)
        self._choices, self._destructive = choices, destructive

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(sanitize(self._texts[0]), classes="title", markup=False)
            yield Static(sanitize(self._texts[1]), classes="detail", markup=False)
            with Horizontal(id="buttons"):
                for key, label in self._choices.items():
                    yield Button(
                        f"{label} [{key}]".replace("[", r"\["), id=f"choice-{key}", compact=True,
                        variant="error" if key == self._destructive else "default",
                    )  # fmt: skip

    def on_key(self, event: events.Key) -> None:
        if event.key in self._choices:
            event.stop()
            self.dismiss(event.key)

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        self.dismiss((event.button.id or "").removeprefix("choice-"))


class InputDialog(DismissOnceMixin, ModalScreen[str | None]):
    """Asks for a line of text; returns it, or None for Escape.

    Args:
        title: what is asked for.
        detail: a sentence about it.
        value: the text to begin with.
        problem: what is wrong with a text, or an empty string; checked at every key.
    """

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
