"""A row of names, one of which is chosen: views of a screen, by key or mouse."""

from __future__ import annotations

from dataclasses import dataclass

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Label


class Name(Label):
    """One of the names."""

    @dataclass
    class Clicked(Message):
        index: int

    def __init__(self, text: str, index: int):
        super().__init__(text, markup=False)
        self.index = index

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self.index))


class Strip(Horizontal):
    """The names side by side; the chosen one stands out."""

    chosen = reactive(0, init=False)

    @dataclass
    class Chosen(Message):
        """Another name was chosen."""

        index: int

    def __init__(self, *names: str, id: str | None = None):
        super().__init__(id=id)
        self._names = names

    def compose(self) -> ComposeResult:
        for index, name in enumerate(self._names):
            yield Name(f" {index + 1} {name} ", index)

    def on_mount(self) -> None:
        self._mark()

    def watch_chosen(self) -> None:
        self._mark()
        self.post_message(self.Chosen(self.chosen))

    def _mark(self) -> None:
        for name in self.query(Name):
            name.set_class(name.index == self.chosen, "-chosen")

    @on(Name.Clicked)
    def _choose(self, event: Name.Clicked) -> None:
        event.stop()
        self.chosen = event.index
