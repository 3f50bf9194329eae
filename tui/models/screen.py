"""Choosing a model: runs and model directories found on disk, or any that is typed."""

from __future__ import annotations

import time

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from kgpt.formatting import age
from kgpt_tui.models.discovery import FoundModel, models
from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.display import one_line


class ModelScreen(DismissOnceMixin, ModalScreen[str | None]):
    """Gives what `--model` takes, or None for Escape."""

    CSS_PATH = "models.tcss"
    BINDINGS = [
        Binding("escape", "dismiss(None)", "Cancel", id="models.cancel"),
        Binding("down", "move(1)", "Down", id="models.down", show=False, priority=True),
        Binding("up", "move(-1)", "Up", id="models.up", show=False, priority=True),
    ]

    def __init__(self, current: str = ""):
        super().__init__()
        self._current = current
        self._found: list[FoundModel] = []

    def compose(self) -> ComposeResult:
        with Vertical(id="frame"):
            yield Static("Model", classes="title")
            yield Input(placeholder="A run, run@step or directory", compact=True)
            yield OptionList(compact=True, markup=False)
            yield Static("enter chats with it, escape cancels", classes="hint")

    def on_mount(self) -> None:
        self._show()
        self._look()

    @work(thread=True)
    def _look(self) -> None:
        found = models()
        self.app.call_from_thread(self._have, found)

    def _have(self, found: list[FoundModel]) -> None:
        self._found = found
        self._show()

    @on(Input.Changed)
    def _show(self) -> None:
        words = self.query_one(Input).value.lower().split()
        options = self.query_one(OptionList)
        options.clear_options()
        fitting = [m for m in self._found if all(word in m.source.lower() for word in words)]
        options.add_options(Option(self._line(model), id=model.source) for model in fitting)
        if not fitting:
            said = "Enter uses the typed name." if words else "Nothing found here; train one: F5."
            options.add_option(Option(Content.styled(said, "$foreground-muted"), disabled=True))
        else:
            options.highlighted = 0

    def _line(self, model: FoundModel) -> Content:
        mark = "● " if model.source == self._current else "  "
        when = age(time.time() - model.modified)
        return Content.assemble(
            (mark, "$success"), (one_line(model.source, 48), "bold"),
            (f"  {one_line(model.detail, 60)} · {when}", "$foreground-muted"),
        )  # fmt: skip

    def action_move(self, offset: int) -> None:
        options = self.query_one(OptionList)
        options.action_cursor_down() if offset > 0 else options.action_cursor_up()

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        options, typed = self.query_one(OptionList), event.value.strip()
        exact = any(model.source == typed for model in self._found)
        place = options.highlighted
        chosen = None if place is None else options.get_option_at_index(place).id
        if chosen is not None and not exact and "@" not in typed:
            self.dismiss(chosen)
        elif typed:
            self.dismiss(typed)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option.id)
