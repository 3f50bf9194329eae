"""How the chat's screens look, at three sizes, dark and light."""

import os

import pytest

from kgpt_tui.shared.settings import DARK, LIGHT
from tests.tui.chatting import chat
from tests.tui.driving import SIZES, wait_until
from tests.tui.snapshots import matches_snapshot, picture

KEEPING = os.environ.get("KGPT_SNAPSHOTS") == "write"
ANSWER = "The moon is a *quiet* lamp.\n\n- `keeps` its light\n- [/b] is text"
VIEWS = {
    "answered": (),
    "tokens": ("ctrl+t", "right", "right", "down"),
    "sampling": ("ctrl+s", "down", "down", "right"),
    "chats": ("ctrl+b",),
    "commands": ("slash", "e"),
    "keys": ("f1",),
    "settings": ("f10",),
    "models": ("ctrl+l",),
    "editing": ("escape", "e"),
}


@pytest.mark.parametrize("theme", [DARK, LIGHT])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_each_view_looks_as_it_did(tmp_path, monkeypatch, size, theme):
    monkeypatch.setattr("kgpt_tui.chat.conversation.Message.speed", 42.0)
    monkeypatch.setattr("kgpt_tui.chat.conversation_list.age", lambda moment: "now")
    monkeypatch.chdir(tmp_path)
    suffix = f"{size[0]}x{size[1]}-{theme.removeprefix('kgpt-')}"

    async def looks(chat, name):
        """Whatever is still on its way is waited for: a snapshot is never of a moment."""
        before = None
        while KEEPING and before != (before := picture(chat.app)):
            await chat.pilot.pause(1.0)
        await chat.until(lambda: matches_snapshot(chat.app, f"chat-{name}-{suffix}"), name)

    async def script(chat):
        chat.screen.query_one("#composer").cursor_blink = False
        await looks(chat, "empty")
        await chat.ask("Tell me about the moon")
        for name, keys in VIEWS.items():
            await chat.press(*keys)
            await looks(chat, name)
            if len(chat.app.screen_stack) > 1:
                await chat.press("escape")
            while not chat.screen.query_one("#composer").has_focus:
                await chat.press("escape")
            if name == "commands":
                chat.screen.query_one("#composer").clear()

    chat(script, tmp_path, size, theme, answer=ANSWER)


def test_colours_can_be_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")

    async def script(chat):
        await chat.ask()
        assert any(type(each).__name__ == "Monochrome" for each in chat.app._filters)
        await wait_until(chat.pilot, lambda: "quiet" in chat.texts[-1])

    chat(script, tmp_path)
