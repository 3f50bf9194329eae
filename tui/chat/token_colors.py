"""Colours of tokens: how sure the model was, by the probability or by the entropy of its choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from textual.color import Color
from textual.content import Content
from textual.style import Style

from kgpt.protocol import TokenInfo
from kgpt_tui.chat.conversation import Message
from kgpt_tui.shared.display import sanitize

Coloring = Literal["probability", "entropy"]

LEVELS = 6  # shades from "could be anything" to "certain"
STRENGTH = 0.42  # of the shade over the background


@dataclass(frozen=True)
class Palette:
    """The shades of one theme, from unsure to sure."""

    by: Coloring
    shades: tuple[Color, ...]
    text: Color
    cursor: Color
    ground: Color

    @classmethod
    def of(cls, variables: Mapping[str, str], by: Coloring) -> Palette:
        """From a theme's variables."""
        ground = Color.parse(variables["background"])
        low, middle, high = (Color.parse(variables[n]) for n in ("error", "warning", "success"))
        shades = []
        for level in range(LEVELS):
            x = 2 * level / (LEVELS - 1)
            hue = low.blend(middle, x) if x < 1 else middle.blend(high, x - 1)
            shades.append(ground.blend(hue, STRENGTH))
        text = Color.parse(variables["foreground"])
        return cls(by, tuple(shades), text, Color.parse(variables["accent"]), ground)

    def shade(self, token: TokenInfo) -> Color:
        sure = math.exp(token.logprob) if self.by == "probability" else 1 - entropy(token)
        level = round(math.sqrt(min(max(sure, 0.0), 1.0)) * (LEVELS - 1))
        return self.shades[level]


def entropy(token: TokenInfo) -> float:
    """How open the choice was, from 0 (one token) to 1 (all alternatives alike)."""
    chances = [math.exp(other.logprob) for other in token.top_logprobs]
    total = sum(chances)
    if len(chances) < 2 or total <= 0:
        return 0.0
    bits = -sum(p / total * math.log(p / total) for p in chances if p > 0)
    return bits / math.log(len(chances))


def colored(message: Message, palette: Palette, cursor: int | None) -> Content:
    """The text of an answer with a shade behind each token; a click finds the token's index."""
    parts: list[Content | tuple[str, Style]] = []
    if message.prefix:
        parts.append((sanitize(message.prefix), Style(foreground=palette.text, dim=True)))
    for index, token in enumerate(message.tokens):
        style = Style.from_meta({"token": index}) + (
            Style(background=palette.cursor, foreground=palette.ground, bold=True)
            if index == cursor
            else Style(background=palette.shade(token), foreground=palette.text)
        )
        text = sanitize(token.text)
        # A line break alone could not be seen under the cursor.
        parts.append((f"⏎{text}" if index == cursor and text.startswith("\n") else text, style))
    return Content.assemble(*parts)
