"""Driving the app in tests: no settings but the test's own, and waiting for what is to be seen."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from textual import events
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

from kgpt_tui.app import KgptApp, Options
from kgpt_tui.shared import ordered_input

SIZES = [(40, 12), (80, 24), (120, 40)]
WAIT_TIMEOUT_S = 90.0  # generous, for a busy machine; a true condition is seen at once


def drive(
    script: Callable[[Any, Any], Awaitable[None]],
    folder: Path,
    size: tuple[int, int] = (120, 40),
    theme: str | None = None,
    **options: Any,
) -> None:
    """Run `script(app, pilot)` in an app that keeps all it writes in `folder`."""

    async def go() -> None:
        app = KgptApp(Options(settings=folder / "tui.json", data=folder / "chats", **options))
        app.animation_level = "none"
        with still_cursor(Input), still_cursor(TextArea), patience():
            async with app.run_test(size=size) as pilot:
                if theme:
                    app.theme = theme
                await script(app, pilot)

    asyncio.run(go())


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Neither the app nor Textual's pilot gives up on a slow machine before the tests do."""
    with (
        patch.object(ordered_input, "TIMEOUT_S", WAIT_TIMEOUT_S),
        patch.object(Pilot._wait_for_screen, "__defaults__", (WAIT_TIMEOUT_S,)),
    ):
        yield


def still_cursor(widget: type[Input] | type[TextArea]) -> Any:
    """Widgets of this type show a cursor that does not blink, so that snapshots are repeatable."""
    return patch.object(widget.__dict__["cursor_blink"], "_default", False)


async def wait_until(pilot: Pilot[Any], holds: Callable[[], object], what: str = "") -> None:
    """Let the app work until `holds()`; widgets it asks for may come late."""
    deadline = time.monotonic() + WAIT_TIMEOUT_S
    problem: Exception | None = None
    while time.monotonic() < deadline:
        await pilot.pause(0.02)
        try:
            if holds():
                return
        except Exception as error:
            problem = error
    raise AssertionError(f"waited in vain for {what or 'a condition'}") from problem


def burst(app: App[Any], *keys: str) -> None:
    """Keys in one write, as a terminal delivers those of a paste or of a fast typist."""
    for key in keys:
        name = {" ": "space", "/": "slash"}.get(key, key)
        app.post_message(events.Key(name, key if len(key) == 1 else None))


async def settled(app: KgptApp) -> None:
    """Wait until all keys have taken effect."""
    await asyncio.sleep(0.01)
    await asyncio.wait_for(app.input.join(), WAIT_TIMEOUT_S)


def screen_text(app: App[Any]) -> str:
    """What can be read on the screen, a line each row."""
    strips = app.screen._compositor.render_strips(app.size)
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


def said(app: App[Any]) -> str:
    """What the messages in the corner say."""
    return " ".join(note.message for note in app._notifications)
