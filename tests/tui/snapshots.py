"""Screens as text files: what is written where, and a fingerprint of the colours.

`KGPT_SNAPSHOTS=write pytest tests/tui` writes them anew; look at the difference before committing.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from textual.app import App
from textual.pilot import Pilot

FOLDER = Path(__file__).parent / "snapshots"


def picture(app: App) -> str:
    """The screen's text, line by line, then a hash of the style of every cell."""
    lines, styles = [], hashlib.sha256()
    for strip in app.screen._compositor.render_strips(app.size):
        lines.append("".join(segment.text for segment in strip).rstrip())
        cells = [(len(segment.text), str(segment.style)) for segment in strip.simplify()]
        styles.update(repr(cells).encode())
    return "\n".join([*lines, f"colours {styles.hexdigest()[:16]}", ""])


async def settle(pilot: Pilot) -> None:
    """Wait until the screen has not changed for half a second: a busy machine draws late."""
    before = ""
    for _ in range(40):
        await pilot.pause(0.5)
        now = picture(pilot.app)
        if now == before:
            return
        before = now
    raise AssertionError("the screen never came to rest")


def matches_snapshot(app: App, name: str) -> bool:
    """True if the screen is as it was kept under `name`; writes it when asked to."""
    file = FOLDER / f"{name}.txt"
    now = picture(app)
    if os.environ.get("KGPT_SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")
    assert file.exists(), f"{file.name} was never kept; see the docstring of {__name__}"
    kept = file.read_text(encoding="utf-8")
    assert now == kept, f"{name} looks different:\n{now}"
    return True
