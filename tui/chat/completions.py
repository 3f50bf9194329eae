"""The slash commands that begin with the typed text, listed above the composer."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from kgpt_tui.chat.commands import Command


class Completions(OptionList, can_focus=False):
    """Hidden while there are none; the composer moves its cursor."""

    def __init__(self) -> None:
        super().__init__(id="completions", compact=True, markup=False)
        self._commands: list[Command] = []

    def show(self, commands: list[Command]) -> None:
        """List `commands`."""
        if commands == self._commands:
            return
        self._commands = commands
        self.display = bool(commands)
        self.clear_options()
        self.add_options(Option(_line(command)) for command in commands)
        self.highlighted = 0 if commands else None

    @property
    def chosen(self) -> Command | None:
        return None if self.highlighted is None else self._commands[self.highlighted]

    def move(self, offset: int) -> bool:
        """Move the cursor; False if there is nothing to move over."""
        if not self._commands or self.highlighted is None:
            return False
        self.highlighted = (self.highlighted + offset) % len(self._commands)
        return True


def _line(command: Command) -> Content:
    return Content.assemble(
        (f"/{command.name}", "bold $accent"),
        (f" {command.argument}" if command.argument else "", "$foreground"),
        (f"  {command.help}", "$foreground-muted"),
    )
