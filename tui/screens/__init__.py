"""The screens, by name, imported when first shown: a new screen is one file and one line here.

Each mode keeps its own stack of screens, so going from a chat to the runs and back loses nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from textual.screen import Screen

MODES = {
    "home": "kgpt_tui.screens.home:HomeScreen",
    "chat": "kgpt_tui.screens.chat:ChatScreen",
    "runs": "kgpt_tui.screens.runs:RunsScreen",
    "train": "kgpt_tui.screens.train:TrainScreen",
}
SCREENS = MODES | {
    "watch": "kgpt_tui.screens.watch:WatchScreen",
    "help": "kgpt_tui.screens.help:HelpScreen",
    "settings": "kgpt_tui.screens.settings:SettingsScreen",
    "models": "kgpt_tui.screens.models:ModelScreen",
}


def make(name: str, *arguments: Any, **named: Any) -> Screen:
    """Import and build the screen called `name`."""
    module, _, owner = SCREENS[name].partition(":")
    return getattr(import_module(module), owner)(*arguments, **named)
