"""The event by which widgets ask for a change of the chat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from textual.message import Message as Event

from kgpt_tui.chat.controller import ChatController


@dataclass
class ControllerCall(Event):
    """Asks the screen to run `call` on its controller, and to show the error if it fails."""

    call: Callable[[ChatController], Awaitable[None] | None]
