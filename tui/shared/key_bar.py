"""The keys at the foot of a screen."""

from __future__ import annotations

from textual.screen import Screen
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

PALETTE = "-command-palette"


class KeyBar(Footer):
    """Textual's footer, whose keys change in place.

    The footer builds every key anew when one changes, which was two thirds of the time that a
    change of focus took. Groups of keys, which kgpt does not use, are not drawn as such.
    """

    def bindings_changed(self, screen: Screen) -> None:
        if not self.query(FooterKey):
            super().bindings_changed(screen)
        elif screen.app.app_focus and self.is_attached and screen is self.screen:
            self.call_after_refresh(self._show_keys)

    def _show_keys(self) -> None:
        if not self.is_attached:  # the screen was left between the change and this call
            return
        shown: dict[str, tuple] = {}  # by action: of keys that do the same, the first is shown
        for _, binding, enabled, tooltip in self.screen.active_bindings.values():
            if binding.show:
                shown.setdefault(binding.action, (binding, enabled, tooltip))
        keys = [key for key in self.query(FooterKey) if not key.has_class(PALETTE)]
        for key, (binding, enabled, tooltip) in zip(keys, shown.values(), strict=False):
            _show(key, self.app.get_key_display(binding), binding, enabled, tooltip)
        for key in keys[len(shown) :]:
            key.display = False
        more = [
            FooterKey(
                binding.key, self.app.get_key_display(binding), binding.description,
                binding.action, disabled=not enabled, tooltip=tooltip,
            ).data_bind(compact=Footer.compact)
            for binding, enabled, tooltip in list(shown.values())[len(keys) :]
        ]  # fmt: skip
        if more:
            palette = self.query(f".{PALETTE}")
            self.mount(*more, before=palette.first() if palette else None)


def _show(key: FooterKey, name: str, binding, enabled: bool, tooltip: str) -> None:
    now = (name, binding.key, binding.description, binding.action)
    before = (key.key_display, key.key, key.description, key.action)
    if now != before:
        key.key_display, key.key, key.description, key.action = now
        key.refresh(layout=True)
    key._disabled = not enabled
    key.set_class(not enabled, "-disabled")
    key.tooltip = tooltip or None
    key.display = True
