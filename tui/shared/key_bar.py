"""The footer: the keys of the focused widget and its screen."""

from __future__ import annotations

from typing import Any

from textual.binding import Binding
from textual.screen import Screen
from textual.widgets import Footer

from kgpt_tui.shared.textual_private import FooterKey, set_key_disabled

PALETTE = "-command-palette"


class KeyBar(Footer):
    """Textual's footer, updated in place.

    Textual's own builds every key anew when one changes, which was two thirds of the time that a
    change of focus took. Groups of keys, which kgpt does not use, are not supported.
    """

    def bindings_changed(self, screen: Screen[Any]) -> None:
        if not self.query(FooterKey):
            super().bindings_changed(screen)
        elif screen.app.app_focus and self.is_attached and screen is self.screen:
            self.call_after_refresh(self._update_keys)

    def _update_keys(self) -> None:
        if not self.is_attached:  # the screen was closed between the change and this call
            return
        # By action: of several keys with the same action, the first is displayed.
        displayed: dict[str, tuple[Binding, bool, str]] = {}
        for _, binding, enabled, tooltip in self.screen.active_bindings.values():
            if binding.show:
                displayed.setdefault(binding.action, (binding, enabled, tooltip))
        keys = [key for key in self.query(FooterKey) if not key.has_class(PALETTE)]
        for key, (binding, enabled, tooltip) in zip(keys, displayed.values(), strict=False):
            _update_key(key, self.app.get_key_display(binding), binding, enabled, tooltip)
        for key in keys[len(displayed) :]:
            key.display = False
        more = [
            FooterKey(
                binding.key, self.app.get_key_display(binding), binding.description,
                binding.action, disabled=not enabled, tooltip=tooltip,
            ).data_bind(compact=Footer.compact)
            for binding, enabled, tooltip in list(displayed.values())[len(keys) :]
        ]  # fmt: skip
        if more:
            palette = self.query(f".{PALETTE}")
            self.mount(*more, before=palette.first() if palette else None)


def _update_key(
    key: FooterKey, key_display: str, binding: Binding, enabled: bool, tooltip: str
) -> None:
    new = (key_display, binding.key, binding.description, binding.action)
    old = (key.key_display, key.key, key.description, key.action)
    if new != old:
        key.key_display, key.key, key.description, key.action = new
        key.refresh(layout=True)
    set_key_disabled(key, not enabled)
    key.tooltip = tooltip or None
    key.display = True
