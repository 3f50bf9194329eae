"""Nothing typed is lost or misunderstood, however fast the keys come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kgpt_tui.app import KgptApp
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.screen import ChatScreen
from tests.tui.chatting import Chat, chat
from tests.tui.driving import burst, drive, settled


@pytest.mark.parametrize("times", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_text_and_enter_in_one_write_are_sent_whole(tmp_path: Path, times: int) -> None:
    async def script(chat: Chat) -> None:
        for number in range(times):
            text = f"{number} " + "".join(random.Random(number).choices("abc xyz", k=number % 40))
            text = text.strip()
            burst(chat.app, *text, "enter")
            await settled(chat.app)
            await chat.done()
            assert chat.texts[-2] == text
            burst(chat.app, "ctrl+n")

    chat(script, tmp_path, answer="So")


def test_letters_after_a_key_that_opens_a_screen_go_to_that_screen(tmp_path: Path) -> None:
    async def opened(app: KgptApp, pilot: Pilot[None]) -> None:
        burst(app, *"c", *"train dpx")  # c opens the chat; t, d, w are commands of the home screen
        await settled(app)
        assert isinstance(app.screen, ChatScreen)
        assert app.screen.query_one(Composer).text == "train dpx"
        burst(app, "f4", "f3", *" more")
        await settled(app)
        assert app.screen.query_one(Composer).text == "train dpx more"

    drive(opened, tmp_path)


def test_letters_after_a_command_are_those_of_the_new_chat(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("first")
        old = chat.session.conversation.id
        burst(chat.app, *"/new", "enter", *"second")
        await settled(chat.app)
        composer = chat.screen.query_one(Composer)
        assert (chat.path, composer.text) == ([], "second")
        burst(chat.app, *" thoughts", "ctrl+n", *"third")
        await settled(chat.app)
        assert composer.text == "third"
        drafts = {entry.id: chat.session.store.load(entry.id).draft
                  for entry in chat.session.store.entries()}  # fmt: skip
        drafts.pop(chat.session.conversation.id, None)  # on a slow machine, saved in mid-word
        assert drafts.pop(old) == "" and list(drafts.values()) == ["second thoughts"]

    chat(script, tmp_path)


@pytest.mark.parametrize("line", ["/nonsense 3", "/set temprature=1", "/import /none.md"])
def test_a_command_that_fails_stays_in_the_composer(tmp_path: Path, line: str) -> None:
    async def script(chat: Chat) -> None:
        burst(chat.app, *line, "enter")
        await settled(chat.app)
        assert chat.screen.query_one(Composer).text == line

    chat(script, tmp_path)


@pytest.mark.parametrize(
    "keys",
    [
        ("ctrl+n",),
        ("ctrl+b", "end", "enter"),
        ("ctrl+l", "x", "escape"),
        ("f3", "ctrl+g"),
        ("f4", "f3", "ctrl+r"),
    ],
)
def test_keys_while_an_answer_streams_break_nothing(tmp_path: Path, keys: tuple[str, ...]) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("first")
        await chat.press("ctrl+n")
        burst(chat.app, *"second", "enter")
        await chat.until(lambda: "moon" in chat.texts[-1])
        burst(chat.app, *keys)
        await settled(chat.app)
        await chat.done()

    chat(script, tmp_path, pause=0.03)


def test_an_escape_a_moment_late_stops_nothing_and_goes_nowhere(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("first")
        burst(chat.app, "escape", *"rex yeti")  # r, e, x and y are commands of the messages
        await settled(chat.app)
        composer = chat.screen.query_one(Composer)
        assert composer.text == "rex yeti" and len(chat.path) == 2
        burst(chat.app, "escape")  # a second one is meant
        await settled(chat.app)
        assert chat.screen.focused is chat.screen.view.messages

    chat(script, tmp_path, late_stop=60.0)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("presence_penalty=-1", "presence_penalty", -1.0),
        ("presence-penalty=-1", "presence_penalty", -1.0),
        ("presence-penalty -1.5", "presence_penalty", -1.5),
        ("top_p = 0.5", "top_p", 0.5),
        ("stop=a=b-c", "stop", ["a=b-c"]),
        ("max-tokens  7", "max_tokens", 7),
    ],
)
def test_set_takes_each_spelling(tmp_path: Path, line: str, name: str, value: object) -> None:
    async def script(chat: Chat) -> None:
        burst(chat.app, *f"/set {line}", "enter")
        await settled(chat.app)
        assert getattr(chat.session.sampling, name) == value

    chat(script, tmp_path)


def test_a_question_edited_while_an_answer_comes_is_kept(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("first")
        chat.screen.view.messages.edit(chat.path[0])
        await settled(chat.app)
        chat.session.client, client = None, chat.session.client  # meanwhile the model is lost
        burst(chat.app, *" of all", "ctrl+s")
        await chat.until(lambda: chat.texts == ["first of all"])
        chat.session.client = client

    chat(script, tmp_path)
