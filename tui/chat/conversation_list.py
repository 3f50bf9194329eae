"""The list of conversations, with a search over the text of all messages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message as Event
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from kgpt.formatting import age
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.controller_call import ControllerCall
from kgpt_tui.chat.store import Entry
from kgpt_tui.shared.dialogs import InputDialog
from kgpt_tui.shared.display import one_line


class Entries(OptionList):
    """The conversations found."""

    HELP_TITLE = "Conversations"
    BINDINGS = [
        Binding("enter", "select", "Open", id="conversations.open"),
        Binding("p", "pin", "Pin", id="conversations.pin"),
        Binding("r", "rename", "Rename", id="conversations.rename"),
        Binding("d,delete", "delete", "Delete", id="conversations.delete"),
        Binding("u", "undo", "Undo", id="conversations.undo"),
        Binding("j", "cursor_down", "Down", id="conversations.down", show=False),
        Binding("k", "cursor_up", "Up", id="conversations.up", show=False),
        Binding("slash", "search", "Search", id="conversations.search", show=False),
    ]

    @property
    def chosen(self) -> Entry | None:
        """The conversation under the cursor."""
        option = None if self.highlighted is None else self.get_option_at_index(self.highlighted)
        return option.entry if isinstance(option, EntryOption) else None

    def _call(self, call: Callable[[ChatController], Awaitable[None] | None]) -> None:
        self.post_message(ControllerCall(call))

    def action_pin(self) -> None:
        if (entry := self.chosen) is not None:
            self._call(lambda controller: controller.toggle_pin(entry))

    def action_rename(self) -> None:
        if (entry := self.chosen) is not None:

            def accept(title: str | None) -> None:
                if title:
                    self._call(lambda controller: controller.rename(title, entry.id))

            dialog = InputDialog("Rename", "The title of this chat.", entry.title)
            self.app.push_screen(dialog, accept)

    def action_delete(self) -> None:
        if (entry := self.chosen) is not None:
            self._call(lambda controller: controller.delete(entry.id))

    def action_undo(self) -> None:
        self._call(ChatController.undo_delete)

    def action_search(self) -> None:
        self.post_message(ConversationList.Search())


class EntryOption(Option):
    """A line of the list that knows its conversation."""

    def __init__(self, entry: Entry, current: bool, width: int):
        super().__init__(_line(entry, current, width))
        self.entry = entry


class ConversationList(Vertical):
    """Search above, conversations below."""

    @dataclass
    class Open(Event):
        entry: Entry

    class Search(Event):
        """Go to the search field."""

    class Searched(Event):
        """The search words changed."""

    def __init__(self) -> None:
        super().__init__(id="conversations")

    def compose(self) -> ComposeResult:
        yield Input(placeholder="Search all chats", id="search", compact=True)
        yield Entries(id="entries", compact=True, markup=False)

    def search(self, words: str) -> None:
        """Search for `words`."""
        self.query_one(Input).value = words

    def focus_list(self) -> None:
        self.query_one(Entries).focus()

    def focus_search(self) -> None:
        self.query_one(Input).focus()

    @property
    def words(self) -> str:
        return self.query_one(Input).value

    def show(self, entries: list[Entry], current: int) -> None:
        """Draw the list; the cursor stays on its conversation, also where the order changes."""
        options = self.query_one(Entries)
        index, chosen = options.highlighted, options.chosen
        options.clear_options()
        width = max(16, options.size.width - 2)
        options.add_options(EntryOption(entry, entry.id == current, width) for entry in entries)
        if not entries:
            hint = "Nothing found." if self.words else "Your chats will be here."
            options.add_option(Option(Content.styled(hint, "$foreground-muted"), disabled=True))
        elif index is not None:
            ids = [entry.id for entry in entries]
            if chosen is not None and chosen.id in ids:
                options.highlighted = ids.index(chosen.id)
            else:
                options.highlighted = min(index, len(ids) - 1)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.post_message(self.Searched())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one(Entries).focus()
        self.query_one(Entries).action_first()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if isinstance(event.option, EntryOption):
            self.post_message(self.Open(event.option.entry))


def _line(entry: Entry, current: bool, width: int) -> Content:
    mark = "★ " if entry.pinned else ("● " if current else "  ")
    when = age(time.time() - entry.updated)
    title = Content(one_line(entry.title or "New chat", 200))
    title = title.truncate(max(4, width - len(when) - 3), ellipsis=True, pad=True)
    line = Content.assemble(
        (mark, "$accent"),
        title.stylize("bold" if current else ""),
        " ",
        (when, "$foreground-muted"),
    )
    if entry.snippet:
        found = Content(one_line(entry.snippet, width - 2))
        line = line + Content("\n  ") + found.stylize("$foreground-muted")
    return line
