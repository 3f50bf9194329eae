"""How the chat's screens look, at three sizes, dark and light."""

import os
from pathlib import Path
from typing import Any

import pytest
from textual.app import App

from kgpt_tui.chat.composer import Composer
from kgpt_tui.shared.settings import DARK, LIGHT
from tests.tui.chatting import Chat, chat
from tests.tui.driving import SIZES, screen_text
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
def test_each_view_looks_as_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], theme: str
) -> None:
    monkeypatch.setattr("kgpt_tui.chat.conversation.Message.speed", 42.0)
    monkeypatch.setattr("kgpt_tui.chat.conversation_list.age", lambda moment: "now")
    monkeypatch.chdir(tmp_path)
    suffix = f"{size[0]}x{size[1]}-{theme.removeprefix('kgpt-')}"

    async def looks(chat: Chat, name: str) -> None:
        """Whatever is still on its way is waited for: a snapshot is never of a moment."""
        before = None
        while KEEPING and before != (before := picture(chat.app)):
            await chat.pilot.pause(1.0)
        await chat.until(lambda: matches_snapshot(chat.app, f"chat-{name}-{suffix}"), name)

    async def script(chat: Chat) -> None:
        await looks(chat, "empty")
        await chat.ask("Tell me about the moon")
        for name, keys in VIEWS.items():
            await chat.press(*keys)
            await looks(chat, name)
            if len(chat.app.screen_stack) > 1:
                await chat.press("escape")
            while not chat.screen.query_one(Composer).has_focus:
                await chat.press("escape")
            if name == "commands":
                chat.screen.query_one(Composer).clear()

    chat(script, tmp_path, size, theme, answer=ANSWER)


def hues(app: App[Any]) -> set[str]:
    """The colours on the screen that are not a shade of grey, `#rrggbb`."""
    strips = app.screen._compositor.render_strips(app.size)
    styles = [segment.style for strip in strips for segment in strip if segment.style]
    colors = [color for style in styles for color in (style.color, style.bgcolor)]
    triplets = [color.get_truecolor() for color in colors if color and not color.is_default]
    return {each.hex for each in triplets if not each.red == each.green == each.blue}


@pytest.mark.parametrize("no_color", [False, True])
def test_colours_can_be_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")

    async def script(chat: Chat) -> None:
        await chat.ask()
        await chat.until(lambda: "quiet" in screen_text(chat.app))
        assert bool(hues(chat.app)) is not no_color

    chat(script, tmp_path)
