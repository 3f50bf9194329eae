"""Every use of Textual's private names, checked with Textual 8.2.8.

`runs/braille_plot.py` does the same for textual-plot; nothing else touches private attributes.
"""

from __future__ import annotations

from textual.app import App
from textual.binding import Binding
from textual.command import CommandList, CommandPalette
from textual.dom import DOMNode
from textual.widgets._footer import FooterKey

__all__ = ["FooterKey", "Palette", "is_key_disabled", "remapped_bindings", "set_key_disabled"]


def remapped_bindings(node: DOMNode, app: App[object]) -> list[tuple[str, Binding]]:
    """(key, binding) of every binding of `node`, after the user's remapping."""
    bindings = node._bindings.copy()
    bindings.apply_keymap(app._keymap)
    return list(bindings)


def is_key_disabled(key: FooterKey) -> bool:
    return key._disabled


def set_key_disabled(key: FooterKey, disabled: bool) -> None:
    """Disable a key of a footer in place; the footer itself would build a new one."""
    key._disabled = disabled
    key.set_class(disabled, "-disabled")


class Palette(CommandPalette):
    """Textual's own fails at page up and page down while its list is not shown yet."""

    def _action_command_list(self, action: str) -> None:
        if self.query_one(CommandList).size.area:
            super()._action_command_list(action)
