"""A row of tabs that switch the views of a screen, by key or mouse.

Unlike Textual's own tabs they take one line, have numbers for keys and no focus.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Label


class Tab(Label):
    """The name of one view."""

    @dataclass
    class Clicked(Message):
        index: int

    def __init__(self, text: str, index: int):
        super().__init__(text, markup=False)
        self.index = index

    def on_click(self, event: events.Click) -> None:
        event.stop()
        self.post_message(self.Clicked(self.index))


class Tabs(Horizontal):
    """The tabs side by side; `active` is the index of the highlighted one."""

    active = reactive(0, init=False)

    @dataclass
    class Activated(Message):
        """Another tab was activated."""

        index: int

    def __init__(self, *names: str, id: str | None = None):
        super().__init__(id=id)
        self._names = names

    def compose(self) -> ComposeResult:
        for index, name in enumerate(self._names):
            yield Tab(f" {index + 1} {name} ", index)

    def on_mount(self) -> None:
        self._highlight()

    def watch_active(self) -> None:
        self._highlight()
        self.post_message(self.Activated(self.active))

    def _highlight(self) -> None:
        for tab in self.query(Tab):
            tab.set_class(tab.index == self.active, "-active")

    @on(Tab.Clicked)
    def _activate(self, event: Tab.Clicked) -> None:
        event.stop()
        self.active = event.index
