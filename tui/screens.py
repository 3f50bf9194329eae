"""The screens, by name, imported when first shown: a new screen is one file and one line here.

Each mode keeps its own stack of screens, so going from a chat to the runs and back loses nothing.
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


def make(name: str, *arguments: Any, **named: Any) -> Screen:
    """Import and build the screen called `name`."""
    module, _, owner = SCREENS[name].partition(":")
    return getattr(import_module(module), owner)(*arguments, **named)
