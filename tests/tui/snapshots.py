"""Screens as text files: the characters of every row, then the colours that are not the default.

`KGPT_SNAPSHOTS=write pytest tests/tui` writes them anew; look at the difference before committing.
Below the text, each line describes the colours of one row: `12 on $surface: 0-9 bold $primary` says
that row 12 lies on the theme's surface colour, and that its columns 0 to 9 are bold and in the
primary colour. Colours are called by the theme variable of that value where there is one. Left out
are `$background`, `$foreground` and the text colour of blank cells.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.app import App
from textual.color import Color, ColorParseError
from textual.pilot import Pilot
from textual.strip import Strip

FOLDER = Path(__file__).parent / "snapshots"
ATTRIBUTES = ("bold", "dim", "italic", "underline", "reverse", "strike")
NAMES = (
    "background", "surface", "panel", "foreground", "foreground-muted", "primary", "secondary",
    "accent", "success", "warning", "error", "border", "scrollbar", "primary-darken-2",
    "surface-lighten-2",
)  # fmt: skip


def picture(app: App[Any]) -> str:
    """The screen's text, row by row, then the styles of each row that differ from the default."""
    names = color_names(app.theme_variables)
    strips = app.screen._compositor.render_strips(app.size)
    text = [strip.text.rstrip() for strip in strips]
    styles = [line for row, strip in enumerate(strips) if (line := _row_styles(row, strip, names))]
    return "\n".join([*text, "--- colours", *styles, ""])


def _row_styles(row: int, strip: Strip, names: Mapping[str, str]) -> str:
    """The line for one row, or an empty string where all of it is as usual."""
    behind: Counter[str] = Counter()
    for segment in strip:
        behind[_background(segment, names)] += segment.cell_length
    usual = behind.most_common(1)[0][0]
    spans: list[tuple[int, int, str]] = []  # first column, end, style
    column = 0
    for segment in strip:
        end, style = column + segment.cell_length, describe(segment, names, usual)
        if spans and spans[-1][2] == style:
            spans[-1] = (spans[-1][0], end, style)
        else:
            spans.append((column, end, style))
        column = end
    said = ", ".join(f"{first}-{end - 1} {style}" for first, end, style in spans if style)
    on = "" if usual == "$background" else f" on {usual}"
    return f"{row}{on}: {said}".rstrip() if said or on else ""


def color_names(variables: Mapping[str, str]) -> dict[str, str]:
    """Names of theme variables by the colour they stand for, `#rrggbb`."""
    names: dict[str, str] = {}
    for name in NAMES:
        try:
            color = Color.parse(variables[name])
        except (KeyError, ColorParseError):
            continue
        over = Color.parse(variables["background"])
        names.setdefault((over + color).hex6.lower(), f"${name}")
    return names


def describe(segment: Segment, names: Mapping[str, str], usual: str) -> str:
    """A style in words: attributes, text colour, `on` a background other than the `usual`."""
    style = segment.style or Style()
    words = [name for name in ATTRIBUTES if getattr(style, name)]
    if segment.text.strip() and (color := _name(style.color, names)) != "$foreground":
        words.append(color)
    if (behind := _background(segment, names)) != usual:
        words += ["on", behind]
    return " ".join(words)


def _background(segment: Segment, names: Mapping[str, str]) -> str:
    return _name(segment.style.bgcolor if segment.style else None, names)


def _name(color: RichColor | None, names: Mapping[str, str]) -> str:
    if color is None or color.is_default:
        return "default"
    value = color.get_truecolor().hex.lower()
    return names.get(value, value)


async def settle(pilot: Pilot[Any]) -> None:
    """Wait until the screen has not changed for half a second: a busy machine draws late."""
    before = ""
    for _ in range(40):
        await pilot.pause(0.5)
        now = picture(pilot.app)
        if now == before:
            return
        before = now
    raise AssertionError("the screen never came to rest")


def matches_snapshot(app: App[Any], name: str) -> bool:
    """True if the screen equals the snapshot `name`, which is written when asked to."""
    file = FOLDER / f"{name}.txt"
    now = picture(app)
    if os.environ.get("KGPT_SNAPSHOTS") == "write":
        FOLDER.mkdir(exist_ok=True)
        file.write_text(now, encoding="utf-8")
    assert file.exists(), f"there is no {file.name}; see the docstring of {__name__}"
    expected = file.read_text(encoding="utf-8")
    assert now == expected, f"{name} looks different:\n{now}"
    return True
