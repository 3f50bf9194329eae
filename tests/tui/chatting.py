"""The chat screen connected to a fake server, for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from textual.pilot import Pilot

from kgpt_tui.app import KgptApp
from kgpt_tui.chat import view
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.screen import ChatScreen
from tests.tui.driving import drive, wait_until
from tests.tui.fake_server import FakeServer


def conversation(*texts: str, title: str = "A title") -> Conversation:
    """A conversation in which the user and the assistant take turns."""
    made = Conversation(title=title)
    for index, text in enumerate(texts):
        made.add(Message("user" if index % 2 == 0 else "assistant", text, made.leaf))
    return made


class Chat:
    """The chat screen, and what a test does with it."""

    def __init__(self, app: KgptApp, pilot: Pilot[None], fake: FakeServer):
        self.app, self.pilot, self.fake = app, pilot, fake
        assert isinstance(app.screen, ChatScreen)
        self.screen = app.screen
        self.controller = self.screen.controller
        self.session = self.controller.session

    @property
    def path(self) -> list[Message]:
        return self.session.conversation.path

    @property
    def texts(self) -> list[str]:
        return [message.content for message in self.path]

    async def until(self, holds: Callable[[], object], what: str = "") -> None:
        await wait_until(self.pilot, holds, what)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def write(self, text: str) -> None:
        self.screen.query_one(Composer).focus()
        self.screen.query_one(Composer).fill(text)
        await self.press("enter")

    async def done(self) -> None:
        await self.until(lambda: self.controller.answering is None, "the end of the answer")

    async def ask(self, text: str = "hello") -> None:
        await self.write(text)
        await self.until(lambda: text in self.texts, "the question")
        await self.done()


def chat(
    script: Callable[[Chat], Awaitable[None]],
    tmp_path: Path,
    size: tuple[int, int] = (120, 40),
    theme: str | None = None,
    late_stop: float = 0.0,
    **fake_options: Any,
) -> None:
    """Run `script(chat)` on a chat screen that is connected to a fake server.

    `late_stop` is for how long after an answer Escape is still meant for it.
    """

    async def opened(app: KgptApp, pilot: Pilot[None]) -> None:
        async with FakeServer(**fake_options) as fake:
            app.switch_mode("chat")
            await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen))
            screen = app.screen
            await wait_until(pilot, lambda: screen.focused is not None)
            await wait_until(pilot, lambda: screen.controller.session.store.path is not None)
            screen.controller.connection.connect(fake.address)
            await wait_until(pilot, lambda: screen.controller.session.info is not None)
            await script(Chat(app, pilot, fake))
            screen.controller.stop()
            if client := screen.controller.session.client:
                await client.close()

    with patch.object(view, "LATE_STOP_S", late_stop):
        drive(opened, tmp_path, size, theme)
