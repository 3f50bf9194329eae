"""kgpt's own dark and light theme, beside those that come with Textual."""

from collections.abc import Mapping

from rich.theme import Theme as RichTheme
from textual.color import Color
from textual.theme import Theme

from kgpt_tui.shared.settings import DARK, LIGHT

THEMES = [
    Theme(
        name=DARK,
        primary="#7aa2f7",
        secondary="#9aa5ce",
        accent="#73daca",
        warning="#e0af68",
        error="#f7768e",
        success="#9ece6a",
        foreground="#c8d0ee",
        background="#16171f",
        surface="#1b1d28",
        panel="#242736",
        dark=True,
        variables={
            "footer-key-foreground": "#73daca",
            "border": "#3b4161",
            "scrollbar": "#343a55",
            "scrollbar-hover": "#4a5278",
            "scrollbar-active": "#73daca",
            "scrollbar-background": "#16171f",
            "scrollbar-background-hover": "#16171f",
            "scrollbar-background-active": "#16171f",
        },
    ),
    Theme(
        name=LIGHT,
        primary="#2e5cb8",
        secondary="#5a6382",
        accent="#0b7a75",
        warning="#96610a",
        error="#b3263f",
        success="#3f7a1c",
        foreground="#262b3d",
        background="#f6f6f2",
        surface="#eeeee8",
        panel="#e2e3dd",
        dark=False,
        variables={
            "footer-key-foreground": "#0b7a75",
            "border": "#b9bcc6",
            "scrollbar": "#c6c9d2",
            "scrollbar-hover": "#a3a8b8",
            "scrollbar-active": "#0b7a75",
            "scrollbar-background": "#f6f6f2",
            "scrollbar-background-hover": "#f6f6f2",
            "scrollbar-background-active": "#f6f6f2",
        },
    ),
]


def markdown_styles(variables: Mapping[str, str]) -> RichTheme:
    """Rich's Markdown styles in the colours of a theme."""
    names = ("primary", "secondary", "accent")
    primary, secondary, accent = (Color.parse(variables[name]).hex6 for name in names)
    headings = {f"markdown.h{level}": f"bold {primary}" for level in range(1, 7)}
    return RichTheme(
        headings
        | {
            "markdown.code": f"bold {accent}",
            "markdown.code_block": accent,
            "markdown.block_quote": f"italic {secondary}",
            "markdown.link": f"underline {primary}",
            "markdown.link_url": f"underline {primary}",
            "markdown.item.bullet": f"bold {accent}",
            "markdown.item.number": f"bold {accent}",
            "markdown.hr": secondary,
            "markdown.table.border": secondary,
            "markdown.table.header": f"bold {primary}",
        }
    )
