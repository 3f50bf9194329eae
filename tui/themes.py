"""The two themes of kgpt's own: calm, with one accent. All of Textual's are there as well."""

from textual.theme import Theme

from kgpt_tui.settings import DARK, LIGHT

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
        variables={"footer-key-foreground": "#73daca", "border": "#3b4161"},
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
        variables={"footer-key-foreground": "#0b7a75", "border": "#b9bcc6"},
    ),
]
