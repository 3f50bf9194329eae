"""The slash commands in Textual's command palette."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.message import Message as Event

from kgpt_tui.chat.commands import COMMANDS, Command


class CommandProvider(Provider):
    """Posts `Chosen` to the chat screen."""

    @dataclass
    class Chosen(Event):
        command: Command

    async def discover(self) -> Hits:
        for command in COMMANDS.values():
            choose = partial(self._choose, command)
            yield DiscoveryHit(f"/{command.name}", choose, help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in COMMANDS.values():
            if score := matcher.match(f"/{command.name} {command.help}"):
                choose = partial(self._choose, command)
                yield Hit(score, f"/{command.name}", choose, help=command.help)

    def _choose(self, command: Command) -> None:
        self.screen.post_message(self.Chosen(command))
