"""Preferences: theme, rendering, panels; and the keys, each of which can be another."""

from __future__ import annotations

from typing import get_args

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.keys import format_key
from textual.screen import ModalScreen, Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kgpt_tui.shared.dialogs import DismissOnceMixin, InputDialog
from kgpt_tui.shared.settings import Settings

CHANGEABLE = ("theme", "rendering", "colouring", "compact", "sidebar", "panel")


class SettingsScreen(DismissOnceMixin, ModalScreen[None]):
    """Enter changes what is under the cursor; all is saved at once."""

    CSS_PATH = "settings.tcss"
    HELP_TITLE = "Settings"
    BINDINGS = [
        Binding("escape,q", "dismiss", "Close", id="settings.close"),
        Binding("right,l", "turn(1)", "Next", id="settings.next"),
        Binding("left,h", "turn(-1)", "Before", id="settings.before"),
        Binding("backspace,delete", "reset", "Reset", id="settings.reset"),
    ]

    def __init__(self) -> None:
        super().__init__(id="settings")
        self._keys: dict[str, tuple[str, str]] = {}

    def compose(self) -> ComposeResult:
        with Vertical(id="frame"):
            yield Static("Settings", classes="title")
            yield OptionList(compact=True, markup=False)
            yield Static(id="about", markup=False)

    def on_mount(self) -> None:
        self._keys = keys_of([*self.app.screen_stack[:-1]], self.app)
        self._draw()

    @property
    def _settings(self) -> Settings:
        return self.app.settings  # type: ignore[attr-defined]

    def _draw(self) -> None:
        options = self.query_one(OptionList)
        place = options.highlighted or 0
        options.clear_options()
        for name in CHANGEABLE:
            options.add_option(Option(_row(name, self._said(name)), id=name))
        options.add_option(Option(Content.styled("\nKeys", "bold $accent"), disabled=True))
        for key_id, (keys, what) in self._keys.items():
            own = self._settings.keys.get(key_id)
            shown = ", ".join(format_key(k) for k in (own or keys).split(","))
            row = _row(f"{key_id.split('.')[0]}: {what}", shown, bool(own))
            options.add_option(Option(row, id=f"key:{key_id}"))
        options.highlighted = place

    def _said(self, name: str) -> str:
        value = getattr(self._settings, name)
        return {True: "on", False: "off"}.get(value, str(value))

    @on(OptionList.OptionHighlighted)
    def _about(self, event: OptionList.OptionHighlighted) -> None:
        name = event.option.id or ""
        field = Settings.model_fields.get(name)
        said = (field.description or "") if field else "Enter gives this another key."
        self.query_one("#about", Static).update(said)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        name = event.option.id or ""
        if name.startswith("key:"):
            self._ask_key(name.removeprefix("key:"))
        else:
            self.action_turn(1)

    def _ask_key(self, key_id: str) -> None:
        keys, what = self._keys[key_id]

        def accept(text: str | None) -> None:
            if text is not None:
                others = {k: v for k, v in self._settings.keys.items() if k != key_id}
                self._keep_keys(others | ({key_id: text.strip()} if text.strip() else {}))

        detail = "Key names with commas between, as ctrl+r or f6; empty is as it was."
        self.app.push_screen(
            InputDialog(what, detail, self._settings.keys.get(key_id, keys)), accept
        )

    def _keep_keys(self, keys: dict[str, str]) -> None:
        self.app.save_settings(keys=keys)  # type: ignore[attr-defined]
        self.app.set_keymap(keys)
        self._draw()

    @property
    def _chosen(self) -> str:
        options = self.query_one(OptionList)
        place = options.highlighted
        return "" if place is None else options.get_option_at_index(place).id or ""

    def action_turn(self, offset: int) -> None:
        """Another value of the setting under the cursor."""
        name = self._chosen
        if name not in CHANGEABLE:
            return
        values = self._values(name)
        now = getattr(self._settings, name)
        place = values.index(now) if now in values else 0
        self._use(name, values[(place + offset) % len(values)])

    def action_reset(self) -> None:
        name = self._chosen
        if name.startswith("key:"):
            key_id = name.removeprefix("key:")
            self._keep_keys({k: v for k, v in self._settings.keys.items() if k != key_id})
        elif name in CHANGEABLE:
            self._use(name, Settings.model_fields[name].default)

    def _values(self, name: str) -> list:
        if name == "theme":
            return sorted(self.app.available_themes)
        annotation = Settings.model_fields[name].annotation
        return [False, True] if annotation is bool else list(get_args(annotation))

    def _use(self, name: str, value: object) -> None:
        self.app.save_settings(**{name: value})  # type: ignore[attr-defined]
        if name == "theme":
            self.app.theme = str(value)
        self.app.set_class(self._settings.compact, "-compact")
        self._draw()


def keys_of(screens: list[Screen], app) -> dict[str, tuple[str, str]]:
    """Keys and meaning of every binding that can be another, by its id."""
    owners = [widget for screen in screens for widget in (screen, *screen.query("*"))]
    found: dict[str, tuple[str, str]] = {}
    for owner in [*owners, app]:
        for binding in owner.BINDINGS:
            if isinstance(binding, Binding) and binding.id and binding.description:
                found[binding.id] = (binding.key, binding.description)
    return found


def _row(name: str, value: str, changed: bool = False) -> Content:
    style = "bold $accent" if changed else "$foreground"
    return Content.assemble((f"{name:<32.32}", "$foreground"), (f" {value}", style))
