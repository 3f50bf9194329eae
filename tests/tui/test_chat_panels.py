"""The panels of the chat: tokens, sampling parameters, presets, and the list of conversations."""

from pathlib import Path

from kgpt_tui.chat.conversation_list import Entries
from kgpt_tui.chat.message_view import MessageView
from kgpt_tui.chat.presets import PresetRow
from kgpt_tui.chat.sampling_panel import FieldRow
from kgpt_tui.chat.token_panel import Alternatives, TokenPanel
from kgpt_tui.shared.dialogs import InputDialog
from tests.tui.chatting import Chat, chat
from tests.tui.driving import screen_text


def test_tokens_are_inspected_and_branched_from(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("ctrl+t")
        panel, view = chat.screen.query_one(TokenPanel), chat.screen.query(MessageView).last()
        assert view.palette is not None and view.token == 0
        await chat.press("right", "right")
        assert panel.token.text == " is" and view.token == 2
        await chat.press("p")
        assert view.palette.by == "entropy"
        await chat.press("home", "down", "enter")  # the second alternative: " a"
        await chat.until(lambda: len(chat.session.conversation.siblings(chat.path[-1])) == 2)
        await chat.done()
        assert chat.texts[-1].startswith("The moon a" + "The moon is a")
        sent = chat.fake.requests[-1]
        assert sent["continue_final_message"] and sent["messages"][-1]["content"] == "The moon a"
        assert [t.text for t in chat.path[-1].tokens][:3] == ["The", " moon", " a"]

    chat(script, tmp_path)


def test_a_part_of_a_character_cannot_be_chosen_for_a_branch(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.press("ctrl+t")
        options = chat.screen.query_one(Alternatives)
        texts = [other.text for other in chat.screen.query_one(TokenPanel).token.top_logprobs]
        passed = set()
        for _ in texts:
            await chat.press("down")
            passed.add(options.highlighted)
        assert passed == {at for at, text in enumerate(texts) if text}
        options.highlighted = texts.index("")
        await chat.press("enter")
        assert len(chat.session.conversation.siblings(chat.path[-1])) == 1

    chat(script, tmp_path)


def test_sliders_change_the_next_answer_and_the_next_tokens(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.press("ctrl+s")
        chat.screen.query_one("#field-temperature", FieldRow).focus()
        await chat.press("right", "right")
        assert chat.session.sampling.temperature == 1.1
        await chat.until(lambda: chat.fake.predictions[-1]["temperature"] == 1.1)
        assert chat.fake.predictions[-1]["max_tokens"] == 1
        await chat.press("backspace")
        assert chat.session.sampling.temperature == 1.0
        await chat.press("enter")
        await chat.until(lambda: isinstance(chat.app.screen, InputDialog))
        await chat.press("end", *["backspace"] * 5, "5", "0", "0")
        await chat.until(lambda: "less than or equal to 100" in screen_text(chat.app))
        await chat.press("backspace", "backspace", "enter")
        await chat.until(lambda: chat.session.sampling.temperature == 5.0)

    chat(script, tmp_path)


def test_every_field_can_be_stepped_and_reset(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.press("ctrl+s")
        default = chat.session.sampling
        for row in chat.screen.query(FieldRow):
            row.focus()
            await chat.press("right", "shift+left", "backspace")
            assert chat.session.sampling == default, row.control.name

    chat(script, tmp_path)


def test_presets_are_used_saved_and_forgotten(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.press("ctrl+s")
        chat.screen.query_one(PresetRow).focus()
        await chat.press("right")
        assert chat.session.sampling.temperature == 0.0  # greedy
        await chat.write("/set top_k=7")
        await chat.until(lambda: chat.session.sampling.top_k == 7)
        await chat.write("/save-preset mine")
        await chat.until(lambda: "mine" in chat.app.settings.presets)
        await chat.write("/preset balanced")
        await chat.until(lambda: chat.session.sampling.temperature == 0.8)
        await chat.write("/preset mine")
        await chat.until(lambda: chat.session.sampling.top_k == 7)
        chat.screen.query_one(PresetRow).focus()
        await chat.press("x")
        assert "mine" not in chat.app.settings.presets

    chat(script, tmp_path)


def test_conversations_are_listed_searched_renamed_pinned_and_deleted(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask("about foxes")
        await chat.press("ctrl+n")
        chat.fake.answer = "Bears sleep."
        await chat.ask("about bears")
        entries = chat.screen.query_one(Entries)
        assert entries.option_count == 2
        await chat.press("ctrl+f", *"sleep", "enter")
        assert entries.option_count == 1 and chat.screen.focused is entries
        await chat.press("slash", *["backspace"] * 5, "enter", "end", "enter")
        await chat.until(lambda: chat.texts[0] == "about foxes")
        await chat.press("p")
        await chat.until(lambda: "★" in screen_text(chat.app))
        await chat.press("r")
        await chat.until(
            lambda: isinstance(chat.app.screen, InputDialog) and chat.app.screen.focused
        )
        await chat.press("end", *" too", "enter")
        await chat.until(lambda: "about foxes too" in screen_text(chat.app))
        entries.focus()
        await chat.press("home", "d")
        await chat.until(lambda: entries.option_count == 1)
        await chat.press("u")
        await chat.until(lambda: entries.option_count == 2)

    chat(script, tmp_path)
