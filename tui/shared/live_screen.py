"""Screens that show what others change: the runs on the disk, as they are trained."""

from __future__ import annotations

import asyncio

from textual import on, work
from textual.message import Message
from textual.screen import Screen


class LiveScreen(Screen[None]):
    """Looks every `PERIOD_S` seconds, in `look`, and then shows what it saw, in `draw`."""

    PERIOD_S = 1.0

    class Looked(Message):
        """There may be something to draw."""

    @property
    def is_seen(self) -> bool:
        """Is it on top, and neither it nor the app about to close?"""
        return self.is_attached and self.app.is_running and self.is_current

    def on_mount(self) -> None:
        self.follow()

    @work(group="follow", exclusive=True, exit_on_error=False)
    async def follow(self) -> None:
        """Look and draw, at once and for as long as the screen is there."""
        while True:
            await self.look()
            self.post_message(self.Looked())
            await asyncio.sleep(self.PERIOD_S)

    @on(Looked)
    def draw_if_seen(self) -> None:
        if self.is_seen:
            self.draw()

    async def look(self) -> None:
        """Read what is new."""
        raise NotImplementedError

    def draw(self) -> None:
        """Show what was read; nothing where nothing has changed."""
        raise NotImplementedError
