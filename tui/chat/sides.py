"""The sides of a chat: beside the messages where there is room, and over them elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher

from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.conversation_list import ConversationList
from kgpt_tui.chat.sampling_panel import SamplingPanel
from kgpt_tui.chat.token_panel import NextTokens, TokenPanel
from kgpt_tui.shared.app_protocol import kgpt_app

PanelName = Literal["sampling", "tokens"]
WIDE = 110  # columns from which on the sides stand beside the messages


class SidePanel(Vertical):
    """The right side: sampling controls or token inspector, and below them the next token."""

    current: PanelName = "sampling"

    def __init__(self) -> None:
        super().__init__(id="panel")

    def compose(self) -> ComposeResult:
        with ContentSwitcher(initial="sampling", id="panels"):
            yield SamplingPanel()
            yield TokenPanel()
        yield NextTokens()

    def switch(self, name: PanelName) -> None:
        self.current = name
        self.query_one(ContentSwitcher).current = name

    def focus_current(self) -> None:
        if self.current == "tokens":
            self.query_one(TokenPanel).focus_list()
        else:
            self.query_one(SamplingPanel).focus_first()


class Sides:
    """Opens and closes both sides of `screen`, and remembers that in the settings."""

    def __init__(self, screen: Screen[Any]):
        self._screen = screen
        self._was_wide = False

    @property
    def panel(self) -> SidePanel:
        return self._screen.query_one(SidePanel)

    @property
    def _is_wide(self) -> bool:
        return self._screen.app.size.width >= WIDE

    def _has_focus_in(self, selector: str) -> bool:
        focused = self._screen.focused
        return focused is not None and self._screen.query_one(selector) in focused.ancestors

    def fit(self) -> None:
        """Beside the messages as the settings say; closed where the room for that is lost."""
        if self._is_wide != self._was_wide:
            inside = self._has_focus_in("#conversations") or self._has_focus_in("#panel")
            self.restore()
            if inside and not self._is_wide:
                self._screen.query_one(Composer).focus()

    def restore(self) -> None:
        """Open what was open last time, where there is room."""
        self._was_wide = self._is_wide
        settings = kgpt_app(self._screen).settings
        self._screen.set_class(self._is_wide and settings.sidebar, "-sidebar")
        self._screen.set_class(self._is_wide and settings.panel != "none", "-panel")
        if settings.panel != "none":
            self.panel.switch(settings.panel)

    def close_overlays(self) -> bool:
        """Close what lies over the messages; True if something did."""
        screen = self._screen
        if self._is_wide or not (screen.has_class("-sidebar") or screen.has_class("-panel")):
            return False
        screen.remove_class("-sidebar", "-panel")
        screen.query_one(Composer).focus()
        return True

    def open_conversations(self) -> ConversationList:
        if not self._is_wide:
            self._screen.remove_class("-panel")
        self._screen.add_class("-sidebar")
        return self._screen.query_one(ConversationList)

    def toggle_conversations(self) -> None:
        """Open the list of conversations and go there; close it if the focus was there already."""
        if self._screen.has_class("-sidebar") and self._has_focus_in("#conversations"):
            self._screen.remove_class("-sidebar")
            self._screen.query_one(Composer).focus()
        else:
            self.open_conversations().focus_list()
        self._remember()

    def open_panel(self, name: PanelName) -> None:
        if not self._is_wide:
            self._screen.remove_class("-sidebar")
        self._screen.add_class("-panel")
        self.panel.switch(name)

    def toggle_panel(self, name: PanelName) -> None:
        """Open a panel and go there; close it if the focus was there already."""
        is_shown = self._screen.has_class("-panel") and self.panel.current == name
        if is_shown and self._has_focus_in("#panels"):
            self._screen.remove_class("-panel")
            self._screen.query_one(Composer).focus()
        else:
            self.open_panel(name)
            self.panel.focus_current()
        self._remember()

    def _remember(self) -> None:
        if self._is_wide:
            panel = self.panel.current if self._screen.has_class("-panel") else "none"
            sidebar = self._screen.has_class("-sidebar")
            kgpt_app(self._screen).save_settings(sidebar=sidebar, panel=panel)
