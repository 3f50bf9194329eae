"""Rows of a form: a name, what can be changed, and what it means or what is wrong with it."""

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
    """One of few values: space, the arrows or a click go to the next."""

    HELP_TITLE = "Choice"
    BINDINGS = [
        Binding("right,space,enter", "move(1)", "Next value", id="choice.next", show=False),
        Binding("left", "move(-1)", "Value before", id="choice.before", show=False),
    ]
    value = reactive("", init=False)

    @dataclass
    class Changed(Message):
        """Another value was chosen."""

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
        self._draw()

    def watch_value(self) -> None:
        self._draw()
        self.post_message(self.Changed(self, self.value))

    def put(self, value: str) -> None:
        """Show `value` without telling anyone."""
        self.set_reactive(Choice.value, value)
        self._draw()

    def offer(self, choices: tuple[str, ...], value: str) -> None:
        """Other values to choose from; nobody is told."""
        self.choices = choices
        self.put(value)

    def _draw(self) -> None:
        text = self.value or UNSET
        self.update(
            Content.assemble(
                ("‹ ", "$foreground-muted"), sanitize(text), (" ›", "$foreground-muted")
            )
        )

    def action_move(self, by: int) -> None:
        if self.choices:
            at = self.choices.index(self.value) if self.value in self.choices else -by
            self.value = self.choices[(at + by) % len(self.choices)]

    def on_click(self, event: events.Click) -> None:
        self.action_move(1)


class OptionRow(Horizontal):
    """One field of the configuration."""

    @dataclass
    class Edited(Message):
        """The value was changed by the user."""

        field: FormField
        text: str

    @dataclass
    class Entered(Message):
        """The row has the focus now."""

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

    def put(self, text: str) -> None:
        """Show `text` as the value; the form knows it already."""
        editor = self.editor
        if isinstance(editor, Choice):
            editor.put(text)
        elif isinstance(editor, Input) and editor.value != text:
            with editor.prevent(Input.Changed):
                editor.value = text

    def mark(self, edited: bool, problem: str) -> None:
        """Show that the value is not the preset's, or what is wrong with it."""
        self.set_class(edited, "-edited")
        if (problem != "") != self.has_class("-wrong") or problem:
            self.set_class(bool(problem), "-wrong")
            self.query_one(".help", Static).update(sanitize(problem) or self.field.help)

    @on(Input.Changed)
    @on(Choice.Changed)
    def _edited(self, event: Input.Changed | Choice.Changed) -> None:
        event.stop()
        self.post_message(self.Edited(self.field, event.value))

    @on(Input.Submitted)
    def _next(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()

    def on_descendant_focus(self) -> None:
        self.post_message(self.Entered(self.field))
