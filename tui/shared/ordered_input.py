"""Keys and pastes in the order they were typed: each waits until the one before has taken effect.

Textual runs a binding with priority at once, while the letters before it wait in the queue of the
focused widget, and looks up other bindings on whatever screen is shown by the time that widget has
passed the key on. Text and Enter that arrive in one write are then cut, and letters typed while a
screen opens become commands of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from textual import events
from textual.app import App, ScreenStackError
from textual.dom import DOMNode

PASSES = 2  # the first handles the key itself, the second what its handlers posted
POLL_S = 0.05
TIMEOUT_S = 10.0  # a handler that takes longer no longer holds up the keyboard

Input = events.Key | events.Paste


class OrderedInput:
    """Hands events to `handle`, one at a time."""

    def __init__(self, app: App[Any], handle: Callable[[Input], Awaitable[None]]):
        self._app, self._handle = app, handle
        self._queue: asyncio.Queue[Input] = asyncio.Queue()

    def put(self, event: Input) -> None:
        self._queue.put_nowait(event)

    async def run(self) -> None:
        """Handle events until cancelled."""
        while True:
            event = await self._queue.get()
            await self._handle(event)
            with contextlib.suppress(ScreenStackError):  # the app is closing
                await settle(self._app)
            self._queue.task_done()

    async def join(self) -> None:
        """Wait until every event has taken effect."""
        await self._queue.join()


async def settle(app: App[Any]) -> None:
    """Wait until the focused widget, all above it and the app have handled what they were sent."""
    deadline = time.monotonic() + TIMEOUT_S
    for _ in range(PASSES):
        for node in (app.screen.focused or app.screen).ancestors_with_self:
            await _queue_handled(node, deadline)


async def _queue_handled(node: DOMNode, deadline: float) -> None:
    """Wait until `node` has handled the messages in its queue, or is closed."""
    handled = asyncio.Event()
    node.call_later(handled.set)
    while node.is_attached and node.app.is_running and time.monotonic() < deadline:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(handled.wait(), POLL_S)
            return
