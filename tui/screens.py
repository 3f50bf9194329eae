"""The screens by name, each imported when it is first opened.

A new screen is one file and one line here. Each mode keeps its own stack of screens, so that
going from a chat to the runs and back loses nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from textual.screen import Screen

MODES = {
    "home": "kgpt_tui.home.screen:HomeScreen",
    "chat": "kgpt_tui.chat.screen:ChatScreen",
    "runs": "kgpt_tui.runs.screen:RunsScreen",
    "train": "kgpt_tui.train.screen:TrainScreen",
}
SCREENS = MODES | {
    "watch": "kgpt_tui.runs.watch:WatchScreen",
    "help": "kgpt_tui.shared.help:HelpScreen",
    "settings": "kgpt_tui.shared.settings_screen:SettingsScreen",
    "models": "kgpt_tui.models.screen:ModelScreen",
}


def make(name: str, *arguments: Any, **named: Any) -> Screen[Any]:
    """Import and construct the screen called `name`."""
    module, _, class_name = SCREENS[name].partition(":")
    screen: Screen[Any] = getattr(import_module(module), class_name)(*arguments, **named)
    return screen
