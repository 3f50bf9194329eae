"""Rows of a form: a name, an editor, and a help text or what is wrong with the value."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Input, Static

from kgpt_tui.shared.display import sanitize
from kgpt_tui.train.run_form import FormField

UNSET = "not set"


class Choice(Static, can_focus=True):
    """One of a few values: space, the arrows or a click select the next."""

    HELP_TITLE = "Choice"
    BINDINGS = [
        Binding("right,space,enter", "move(1)", "Next value", id="choice.next", show=False),
        Binding("left", "move(-1)", "Previous value", id="choice.before", show=False),
    ]
    value = reactive("", init=False)

    @dataclass
    class Changed(Message):
        """Another value was selected."""

        choice: Choice
        value: str

        @property
        def control(self) -> Choice:
            return self.choice

    def __init__(self, choices: tuple[str, ...], value: str, id: str | None = None):
        super().__init__(id=id)
        self.choices = choices
        self.set_reactive(Choice.value, value)

    def on_mount(self) -> None:
        self._update_text()

    def watch_value(self) -> None:
        self._update_text()
        self.post_message(self.Changed(self, self.value))

    def set_value(self, value: str) -> None:
        """Show `value` without posting `Changed`."""
        self.set_reactive(Choice.value, value)
        self._update_text()

    def set_choices(self, choices: tuple[str, ...], value: str) -> None:
        """Replace the values to choose from, without posting `Changed`."""
        self.choices = choices
        self.set_value(value)

    def _update_text(self) -> None:
        text = self.value or UNSET
        self.update(
            Content.assemble(
                ("‹ ", "$foreground-muted"), sanitize(text), (" ›", "$foreground-muted")
            )
        )

    def action_move(self, offset: int) -> None:
        if self.choices:
            index = self.choices.index(self.value) if self.value in self.choices else -offset
            self.value = self.choices[(index + offset) % len(self.choices)]

    def on_click(self, event: events.Click) -> None:
        self.action_move(1)


class OptionRow(Horizontal):
    """One option of the configuration."""

    @dataclass
    class Edited(Message):
        """The user changed the value."""

        field: FormField
        text: str

    @dataclass
    class Focused(Message):
        """The row received the focus."""

        field: FormField

    def __init__(self, field: FormField, text: str):
        super().__init__()
        self.field = field
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(self.field.name, classes="name", markup=False)
        if self.field.choices:
            yield Choice(self.field.choices, self._text)
        else:
            yield Input(self._text, placeholder=UNSET, compact=True, select_on_focus=False)
        yield Static(self.field.help, classes="help", markup=False)

    @property
    def editor(self) -> Widget:
        return self.query_one("Choice, Input")

    def set_text(self, text: str) -> None:
        """Show `text` as the value without posting `Edited`."""
        self._text = text
        editor = self.editor
        if isinstance(editor, Choice):
            editor.set_value(text)
        elif isinstance(editor, Input) and editor.value != text:
            with editor.prevent(Input.Changed):
                editor.value = text

    def mark(self, edited: bool, problem: str) -> None:
        """Highlight a value other than the preset's, or show what is wrong with it."""
        self.set_class(edited, "-edited")
        if (problem != "") != self.has_class("-wrong") or problem:
            self.set_class(bool(problem), "-wrong")
            self.query_one(".help", Static).update(sanitize(problem) or self.field.help)

    @on(Input.Changed)
    @on(Choice.Changed)
    def _edited(self, event: Input.Changed | Choice.Changed) -> None:
        event.stop()
        if event.value != self._text:  # an input says its first value, too
            self._text = event.value
            self.post_message(self.Edited(self.field, event.value))

    @on(Input.Submitted)
    def _next(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()

    def on_descendant_focus(self) -> None:
        self.post_message(self.Focused(self.field))
