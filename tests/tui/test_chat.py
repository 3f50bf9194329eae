"""The chat on its screen: each key, each command, and every fault of a server."""

import asyncio
import json
from pathlib import Path

import pytest
from textual.pilot import Pilot

from kgpt_tui.app import KgptApp
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.message_list import MOUNTED, MessageList
from kgpt_tui.chat.message_view import MessageView
from kgpt_tui.chat.screen import ChatScreen
from kgpt_tui.chat.store import Store
from kgpt_tui.models.screen import ModelScreen
from kgpt_tui.shared.text_dialog import TextDialog
from tests.tui.chatting import Chat, chat, conversation
from tests.tui.driving import drive, said, screen_text, wait_until
from tests.tui.fake_server import ANSWER


def test_enter_sends_and_the_answer_is_drawn_and_kept(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("Tell me of the moon")
        assert chat.texts == ["Tell me of the moon", ANSWER]
        assert "quiet lamp" in screen_text(chat.app)
        assert chat.screen.query_one(Composer).text == ""
        assert "/128 context" in screen_text(chat.app)

    chat(script, tmp_path)
    store = Store(tmp_path / "chats" / "chats.db")
    assert store.entries("lamp")[0].title == "Tell me of the moon"


def test_ctrl_j_makes_a_line_and_up_and_down_walk_through_what_was_written(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.press("a", "ctrl+j", "b")
        assert chat.screen.query_one(Composer).text == "a\nb"
        await chat.press("enter")
        await chat.done()
        await chat.ask("second")
        composer = chat.screen.query_one(Composer)
        await chat.press("x", "up")
        assert composer.text == "second"
        await chat.press("up")
        assert composer.text == "a\nb"
        await chat.press("down", "down")
        assert composer.text == "x"

    chat(script, tmp_path)


def test_escape_stops_and_keeps_what_was_written(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.fault = "hang"  # so that the answer is still coming, however slow the machine
        await chat.write("hello")
        await chat.until(lambda: "moon" in chat.texts[-1])
        await chat.press("escape")
        await chat.done()
        assert chat.path[-1].finish == "stopped"
        assert ANSWER.startswith(chat.texts[-1]) and chat.texts[-1] != ANSWER
        await chat.until(lambda: "stopped" in screen_text(chat.app))
        await chat.press("ctrl+g")  # and it goes on from there
        await chat.until(lambda: len(chat.fake.requests) == 2)
        assert chat.fake.requests[-1]["continue_final_message"] is True

    chat(script, tmp_path)


def test_alternatives_are_kept_and_walked_with_the_arrows(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        chat.fake.answer = "Another answer."
        await chat.press("ctrl+r")
        await chat.until(lambda: "Another answer." in chat.texts)
        await chat.done()
        await chat.press("escape")
        assert "‹ 2/2 ›" in screen_text(chat.app)
        await chat.press("left")
        assert chat.texts[-1] == ANSWER and "‹ 1/2 ›" in screen_text(chat.app)
        await chat.press("left", "right", "right")
        assert chat.texts[-1] == "Another answer."

    chat(script, tmp_path)


def test_a_question_is_edited_and_sent_again(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("first")
        await chat.press("escape", "home", "e")
        await chat.until(lambda: isinstance(chat.app.screen, TextDialog))
        await chat.press("!", "ctrl+s")
        await chat.until(lambda: "first!" in chat.texts)
        await chat.done()
        assert len(chat.session.conversation.children(None)) == 2

    chat(script, tmp_path)


def test_an_answer_is_rewritten_by_hand(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("escape", "e")
        await chat.until(lambda: isinstance(chat.app.screen, TextDialog))
        await chat.press("?", "ctrl+s")
        await chat.until(lambda: chat.texts[-1] == ANSWER + "?")
        assert len(chat.session.conversation.siblings(chat.path[-1])) == 2

    chat(script, tmp_path)


def test_edit_pressed_twice_in_haste_opens_one_dialog(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        messages = chat.screen.query_one(MessageList)
        messages.action_edit()
        messages.action_edit()
        await chat.until(lambda: isinstance(chat.app.screen, TextDialog))
        await chat.press("escape")
        await chat.until(lambda: chat.app.screen is chat.screen)

    chat(script, tmp_path)


def test_a_branch_is_deleted_and_comes_back(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("escape", "x")
        await chat.until(lambda: len(chat.path) == 1)
        await chat.press("u")
        await chat.until(lambda: len(chat.path) == 2)

    chat(script, tmp_path)


def test_copy_puts_the_text_itself_on_the_clipboard(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("escape", "y")
        assert chat.app.clipboard == "a\x1b[31m [/b] é"

    chat(script, tmp_path, answer="a\x1b[31m [/b] é")


def test_slash_commands_are_completed_and_run(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        composer = chat.screen.query_one(Composer)
        await chat.press("slash", "s", "y")
        assert "/system" in screen_text(chat.app)
        await chat.press("tab")
        assert composer.text == "/system "
        await chat.press(*"be brief", "enter")
        await chat.until(lambda: chat.session.conversation.system == "be brief")
        await chat.ask()
        assert chat.fake.requests[-1]["messages"][0] == {"role": "system", "content": "be brief"}
        await chat.write("/nonsense")
        await chat.until(lambda: "no command" in said(chat.app))
        await chat.write("/prefill Once")
        await chat.done()
        await chat.until(lambda: chat.texts[-1] == "Once" + ANSWER)

    chat(script, tmp_path)


def test_the_receipt_of_an_answer_is_kept_copied_and_written(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.write("/receipt")
        await chat.until(lambda: chat.app.clipboard == '{"kgpt_receipt": 1}')
        file = tmp_path / "receipt.json"
        await chat.write(f"/receipt {file}")
        await chat.until(lambda: "Written to" in said(chat.app))
        assert file.read_text() == '{"kgpt_receipt": 1}\n'
        await chat.write(f"/receipt {file}")
        await chat.until(lambda: "exists" in said(chat.app))
        stored = chat.session.store.load(chat.session.conversation.id)
        assert [message.receipt for message in stored.path] == ["", '{"kgpt_receipt": 1}']
        chat.path[-1].receipt = ""
        await chat.write("/receipt")
        await chat.until(lambda: "has no receipt" in said(chat.app))

    chat(script, tmp_path)


def test_a_model_without_chat_template_goes_on_with_the_text(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("Once upon a time")
        assert "messages" not in chat.fake.requests[-1]
        await chat.ask(" And then")
        assert chat.fake.requests[-1]["prompt"] == f"Once upon a time{ANSWER} And then"
        assert "· text" in screen_text(chat.app)

    chat(script, tmp_path, chat=False)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("die", "closed the connection"),
        ("garbage", "is malformed"),
        ("refuse", "too high"),
        ("not json", "is malformed"),
    ],
)
def test_a_server_that_fails_leaves_a_message_and_a_usable_chat(
    tmp_path: Path, fault: str, sentence: str
) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.fault = fault
        await chat.ask()
        await chat.until(lambda: sentence in screen_text(chat.app))
        chat.fake.fault = ""
        await chat.press("ctrl+r")
        await chat.until(lambda: chat.texts[-1] == ANSWER)

    chat(script, tmp_path)


def test_a_server_that_hangs_is_stopped_with_escape(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        chat.fake.fault = "hang"
        await chat.write("hello")
        await chat.until(lambda: chat.texts[-1] == "The moon is")
        await chat.press("escape")
        await chat.done()
        assert chat.texts[-1] == "The moon is"

    chat(script, tmp_path)


def test_without_a_model_the_text_stays_and_the_way_out_is_said(tmp_path: Path) -> None:
    async def opened(app: KgptApp, pilot: Pilot[None]) -> None:
        app.switch_mode("chat")
        await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.focused)
        await pilot.press("h", "i", "enter")
        await wait_until(pilot, lambda: "Choose a model first" in said(app))
        assert app.screen.query_one(Composer).text == "hi"
        await pilot.press("ctrl+l")
        await wait_until(pilot, lambda: isinstance(app.screen, ModelScreen))
        await pilot.press("escape")
        await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen))

    drive(opened, tmp_path)


def test_what_was_being_written_survives_a_crash(tmp_path: Path) -> None:
    async def crash(chat: Chat) -> None:
        chat.fake.fault = "hang"  # so that the crash comes before the answer's end
        await chat.write("hello")
        await chat.until(lambda: "moon" in chat.texts[-1])
        chat.screen.query_one(Composer).fill("my draft")
        await chat.pilot.pause()
        chat.controller.autosave()
        partial.append(chat.texts[-1])
        chat.controller.autosave = lambda: None  # nothing more is written

    async def after(app: KgptApp, pilot: Pilot[None]) -> None:
        app.switch_mode("chat")
        await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen))
        screen = app.screen
        await wait_until(pilot, lambda: screen.query_one(Composer).text == "my draft")
        answer = screen.controller.path[-1]
        assert answer.content == partial[0] and answer.finish == "interrupted"

    partial = []
    chat(crash, tmp_path)
    drive(after, tmp_path)


HOSTILE = (
    "[/abc] [@click=app.quit]x[/] \x1b]0;t\x07\x1b[2J \u202eRTL \u200b \u05e9\u05dc 👩‍👩‍👧 "
    + "é" * 9
)


@pytest.mark.parametrize("rendering", ["plain", "markdown"])
def test_hostile_text_stays_in_its_place(tmp_path: Path, rendering: str) -> None:
    async def script(chat: Chat) -> None:
        chat.app.save_settings(rendering=rendering)
        await chat.ask(HOSTILE)
        await chat.press("ctrl+t", "right")
        await chat.press("ctrl+b")
        text = screen_text(chat.app)
        assert not set(text) & set("\x1b\x07\u202e\u200b\u200d")
        assert "[/abc]" in text
        assert chat.texts == [HOSTILE, HOSTILE]

    chat(script, tmp_path, answer=HOSTILE)


def test_long_chats_mount_few_messages_and_load_earlier_ones(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.controller.adopt(conversation(*(f"message {n}" for n in range(100))))
        assert len(chat.screen.query(MessageView)) == MOUNTED
        messages = chat.screen.query_one(MessageList)
        messages.focus()
        await chat.press("o")
        assert len(chat.screen.query(MessageView)) == 2 * MOUNTED
        await chat.press("home")
        assert messages.chosen is chat.path[0]
        await chat.press("end", "up", "down", "k", "j")
        assert messages.chosen is chat.path[-1]

    chat(script, tmp_path)


def test_the_keys_can_be_others_and_help_shows_them(tmp_path: Path) -> None:
    (tmp_path / "tui.json").write_text(json.dumps({"keys": {"chat.new": "f7"}}))

    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("f7")
        await chat.until(lambda: not chat.path)
        await chat.press("f1")
        await chat.until(lambda: chat.app.screen.name == "help")
        assert "f7" in screen_text(chat.app)
        await chat.press("escape", "f10")
        await chat.until(lambda: chat.app.screen.name == "settings")
        await chat.press("right")
        assert chat.app.settings.theme != "kgpt-dark"
        await chat.press("backspace", "escape")
        assert chat.app.settings.theme == "kgpt-dark"

    chat(script, tmp_path)


def test_switching_away_keeps_the_answer_coming(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.write("hello")
        await chat.until(lambda: "moon" in chat.texts[-1])
        chat.app.switch_mode("runs")
        await asyncio.sleep(1.2)
        chat.app.switch_mode("chat")
        await chat.done()
        assert chat.texts[-1] == ANSWER

    chat(script, tmp_path, pause=0.03)
