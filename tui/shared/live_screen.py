"""A screen that shows files which other processes change, such as run directories."""

from __future__ import annotations

import asyncio

from textual import on, work
from textual.message import Message
from textual.screen import Screen


class LiveScreen(Screen[None]):
    """Every `POLL_S` seconds `poll` reads what is new and `update_view` shows it."""

    POLL_S = 1.0

    class Polled(Message):
        """`poll` has returned; there may be something new to show."""

    @property
    def is_visible(self) -> bool:
        """True if the screen is the top one, and neither it nor the app is closing."""
        return self.is_attached and self.app.is_running and self.is_current

    def on_mount(self) -> None:
        self.start_polling()

    @work(group="poll", exclusive=True, exit_on_error=False)
    async def start_polling(self) -> None:
        """Poll now, and then every `POLL_S` seconds until the screen is closed."""
        while True:
            await self.poll()
            self.post_message(self.Polled())
            await asyncio.sleep(self.POLL_S)

    @on(Polled)
    def update_if_visible(self) -> None:
        if self.is_visible:
            self.update_view()

    async def poll(self) -> None:
        """Read what is new."""
        raise NotImplementedError

    def update_view(self) -> None:
        """Show what was read; called often, so it does nothing where nothing has changed."""
        raise NotImplementedError
