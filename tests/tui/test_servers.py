"""The chat with other servers, with a model's own settings, and with an engine that dies."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kgpt_tui.app import KgptApp
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.screen import ChatScreen
from kgpt_tui.models import server
from tests.tui import fake_server
from tests.tui.chatting import Chat, chat
from tests.tui.driving import burst, drive, said, screen_text, settled, wait_until
from tests.tui.fake_server import ANSWER


async def connect(chat: Chat, suffix: str = "", model: str = "") -> None:
    chat.session.info = None
    chat.controller.connection.connect(chat.fake.address + suffix, model=model)
    await chat.until(lambda: chat.session.info is not None)


@pytest.mark.parametrize("other", ["ollama", "vllm", "llama.cpp"])
@pytest.mark.parametrize("suffix", ["", "/v1", "/v1/"])
def test_any_openai_compatible_server_is_chatted_with(
    tmp_path: Path, other: str, suffix: str
) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.other, chat.fake.warming = other, 2
        await connect(chat, suffix)
        await chat.ask()
        await chat.ask("again")
        assert chat.texts == ["hello", ANSWER, "again", ANSWER]
        sent = chat.fake.requests[-1]
        assert sent["model"] == "small" and sent["stream"]
        known = {"model", "stream", "stream_options", "messages", "max_tokens"}
        assert set(sent) == known  # only what every server knows, once logprobs were refused
        await chat.write("/set temperature 0.5")
        await chat.ask("warm")
        assert chat.fake.requests[-1]["temperature"] == 0.5

    chat(script, tmp_path)


def test_what_another_server_lacks_is_switched_off(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.other = "vllm"
        await connect(chat, model="large")
        assert chat.session.info.id == "large" and chat.session.info.context == 4096
        await chat.ask()
        asked = len(chat.fake.requests)
        for keys in (("ctrl+g",), ("escape", "c")):
            burst(chat.app, *keys)
            await settled(chat.app)
            assert "does not continue" in said(chat.app)
            chat.app.clear_notifications()
        await chat.write("/prefill Once")
        assert len(chat.fake.requests) == asked and chat.texts == ["hello", ANSWER]
        await chat.write("/tokens")
        await chat.until(lambda: "Nothing is known" in said(chat.app))

    chat(script, tmp_path)


def test_a_model_that_the_server_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.other = "ollama"
        chat.controller.connection.connect(chat.fake.address, model="huge")
        await chat.until(lambda: "no model huge; it has: small, large" in said(chat.app))

    chat(script, tmp_path)


def test_the_models_own_sampling_settings_are_the_defaults(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.sampling = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 77, "new_field": 1}
        await connect(chat)
        await chat.ask()
        sent = chat.fake.requests[-1]
        assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.6, 0.9, 77)
        await chat.write("/preset greedy")
        await chat.write("/preset model")
        await chat.until(lambda: chat.session.sampling.temperature == 0.6)

    chat(script, tmp_path)


def test_the_meter_says_what_was_left_out_of_the_context(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.left_out = 4
        await chat.ask()
        assert chat.fake.requests[-1]["truncate"] == "auto"
        await chat.until(lambda: "4 older left out" in screen_text(chat.app))
        await chat.press("ctrl+t")  # beside the tokens the next one is predicted
        await chat.until(lambda: chat.fake.predictions)
        assert chat.fake.predictions[-1]["truncate"] == "auto"

    chat(script, tmp_path)


def test_an_answer_longer_than_the_context_fills_the_meter(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.context = 16
        await connect(chat)
        await chat.ask()
        assert chat.path[-1].prompt_tokens + len(chat.path[-1].tokens) > 16
        await chat.until(lambda: "━━ 16/16 context" in screen_text(chat.app))

    chat(script, tmp_path)


def test_an_engine_that_is_killed_is_started_again_by_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "PROGRAM", [sys.executable, fake_server.__file__])
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        app.switch_mode("chat")
        await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.focused)
        controller = app.screen.controller
        controller.connection.use_model("model")
        await wait_until(pilot, lambda: controller.session.info)
        first = controller.connection.server._process
        burst(app, *"hello", "enter")
        await wait_until(pilot, lambda: controller.path and controller.path[-1].content)
        os.kill(first.pid, signal.SIGKILL)
        await wait_until(pilot, lambda: "killed by SIGKILL" in said(app))
        assert "f6 starts it again" in said(app) and controller.path[-1].content
        burst(app, "f6")
        await wait_until(pilot, lambda: controller.session.client is not None)
        assert controller.connection.server._process is not first

    drive(script, tmp_path)


def test_losing_columns_leaves_room_for_the_messages(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("ctrl+b", "ctrl+s")
        messages = chat.screen.query_one(MessageList)
        for width in (80, 120, 71, 40):
            await chat.pilot.resize_terminal(width, 24)
            await settled(chat.app)
            await chat.until(lambda: messages.size.width >= 34, f"room at {width}")
            assert chat.screen.focused is not None and chat.screen.focused.is_on_screen

    chat(script, tmp_path)


def test_the_cursor_of_the_inspector_stays_on_the_screen(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("ctrl+t")
        messages = chat.screen.query_one(MessageList)
        view = messages.view(chat.path[-1])

        def line() -> int:
            return view.virtual_region.y + view.token_line() - messages.scroll_offset.y

        for key in ["L"] * 40 + ["H"] * 40:
            burst(chat.app, key)
            await settled(chat.app)
            await chat.pilot.pause()
            await chat.until(lambda: 0 <= line() < messages.size.height, f"the token after {key}")

    chat(script, tmp_path, answer=" ".join(f"word{n}" for n in range(400)))
