"""The chat controller without Textual: a listener that records, and a fake server that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kgpt.errors import UsageError
from kgpt.protocol import TopLogprob
from kgpt_tui.chat.connection import Severity
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.store import Store
from tests.tui.chatting import conversation
from tests.tui.fake_server import ANSWER, FakeServer


class Listener:
    """Records the names of the events, and what is said."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.said: list[str] = []
        self.connected = asyncio.Event()

    def say(self, text: str, severity: Severity = "information") -> None:
        self.said.append(text)

    def task_failed(self, error: BaseException) -> None:
        raise error

    async def model_connected(self, model: str) -> None:
        self.connected.set()

    def connection_changed(self) -> None:
        self.events.append("connection")

    async def messages_changed(self, chosen: Message | None = None) -> None:
        self.events.append("messages")

    async def conversation_opened(self) -> None:
        self.events.append("opened")

    async def generation_started(self, answer: Message) -> None:
        self.events.append("started")

    def generation_finished(self, answer: Message) -> None:
        self.events.append("finished")

    def details_changed(self) -> None:
        self.events.append("details")

    def sampling_changed(self) -> None:
        self.events.append("sampling")


Script = Callable[[ChatController, Listener, FakeServer], Awaitable[None]]


def connected(script: Script, **options: Any) -> None:
    """Run `script` with a controller that is connected to a fake server."""

    async def go() -> None:
        listener = Listener()
        controller = ChatController(Store(None), listener)
        async with FakeServer(**options) as fake:
            controller.connection.connect(fake.address)
            await asyncio.wait_for(listener.connected.wait(), 180)
            await script(controller, listener, fake)
            controller.stop()
            await controller.new()
            await controller.connection.server.stop()

    asyncio.run(go())


async def finished(controller: ChatController) -> None:
    while controller.answering is not None:
        await asyncio.sleep(0.01)


def test_an_answer_is_generated_stored_and_reported():
    async def script(controller, listener, fake):
        assert await controller.send("hello")
        await finished(controller)
        assert [message.content for message in controller.path] == ["hello", ANSWER]
        assert listener.events[-2:] == ["started", "finished"]
        stored = controller.session.store.load(controller.conversation.id)
        assert [message.content for message in stored.path] == ["hello", ANSWER]

    connected(script)


def test_only_one_answer_is_generated_at_a_time():
    async def script(controller, listener, fake):
        await controller.send("hello")
        assert not await controller.send("again")
        assert "esc stops it" in listener.said[-1]
        with pytest.raises(UsageError, match="esc stops it"):
            await controller.remove(controller.path[0])
        controller.stop()
        await finished(controller)
        assert controller.path[-1].finish == "stopped"

    connected(script, pause=0.05)


def test_opening_another_conversation_stops_the_generation_and_keeps_its_text():
    async def script(controller, listener, fake):
        await controller.send("hello")
        first = controller.conversation.id
        while not controller.path[-1].content:
            await asyncio.sleep(0.01)
        await controller.new()
        assert controller.answering is None and controller.path == []
        kept = controller.session.store.load(first).path[-1]
        assert kept.finish == "stopped" and ANSWER.startswith(kept.content) and kept.content

    connected(script, pause=0.05)


def test_a_model_lost_during_a_prediction_fails_nothing(monkeypatch):
    async def script(controller, listener, fake):
        session = controller.session
        ids = session.client.ids

        async def lose(messages):
            found = await ids(messages)
            session.client = None
            return found

        client = session.client
        monkeypatch.setattr(client, "ids", lose)
        assert await session.next_tokens("hello")
        session.client = client

    connected(script)


def test_a_branch_keeps_the_tokens_before_it():
    async def script(controller, listener, fake):
        await controller.send("hello")
        await finished(controller)
        answer = controller.path[-1]
        sibling = controller.branch(answer, 2, TopLogprob(7, " a", b" a", -2.0, 0.1))
        assert sibling is not None and sibling.content == "The moon a"
        assert [token.text for token in sibling.tokens] == ["The", " moon", " a"]
        assert controller.conversation.siblings(answer) == [answer, sibling]
        unfinished = TopLogprob(8, "\ufffd", b"\xf0", -2.0)
        assert controller.branch(answer, 2, unfinished) is None
        assert "part of a character" in listener.said[-1]

    connected(script)


def test_a_deleted_branch_comes_back():
    async def script(controller, listener, fake):
        await controller.adopt(conversation("a", "b", "c"))
        await controller.remove(controller.path[1])
        assert [message.content for message in controller.path] == ["a"]
        await controller.undo_remove()
        assert [message.content for message in controller.path] == ["a", "b", "c"]

    connected(script)


def test_a_deleted_conversation_comes_back():
    async def script(controller, listener, fake):
        await controller.adopt(conversation("a"))
        deleted = controller.conversation.id
        await controller.delete()
        assert controller.session.store.entries() == [] and controller.path == []
        controller.undo_delete()
        assert [entry.id for entry in controller.session.store.entries()] == [deleted]

    connected(script)


def test_the_mode_decides_between_turns_and_one_text():
    async def script(controller, listener, fake):
        await controller.set_mode("text")
        await controller.send("Once")
        await finished(controller)
        assert fake.requests[-1]["prompt"] == "Once"
        with pytest.raises(UsageError, match="auto, chat, text"):
            await controller.set_mode("poem")

    connected(script)


def test_without_a_model_nothing_is_sent():
    async def go() -> None:
        listener = Listener()
        controller = ChatController(Store(None), listener)
        assert not await controller.send("hello")
        assert controller.path == [] and "Choose a model first" in listener.said[-1]

    asyncio.run(go())
