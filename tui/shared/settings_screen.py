"""Settings: theme, rendering, panels; and the key bindings, each of which can be changed."""

from __future__ import annotations

from typing import Any, get_args

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.keys import format_key
from textual.screen import ModalScreen, Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.dialogs import DismissOnceMixin, InputDialog
from kgpt_tui.shared.settings import Settings

EDITABLE = ("theme", "rendering", "colouring", "compact", "sidebar", "panel")


class SettingsScreen(DismissOnceMixin, ModalScreen[None]):
    """Enter changes the highlighted setting; each change is saved at once."""

    CSS_PATH = "settings.tcss"
    HELP_TITLE = "Settings"
    BINDINGS = [
        Binding("escape,q", "dismiss", "Close", id="settings.close"),
        Binding("right,l", "cycle(1)", "Next", id="settings.next"),
        Binding("left,h", "cycle(-1)", "Previous", id="settings.before"),
        Binding("backspace,delete", "reset", "Reset", id="settings.reset"),
    ]

    def __init__(self) -> None:
        super().__init__(name="settings")
        self._keys: dict[str, tuple[str, str]] = {}

    def compose(self) -> ComposeResult:
        with Vertical(id="frame"):
            yield Static("Settings", classes="title")
            yield OptionList(compact=True, markup=False)
            yield Static(id="about", markup=False)

    def on_mount(self) -> None:
        self._keys = remappable_keys(self.app.screen_stack[:-1], self.app)
        self._update_list()

    @property
    def _settings(self) -> Settings:
        return kgpt_app(self).settings

    def _update_list(self) -> None:
        options = self.query_one(OptionList)
        index = options.highlighted or 0
        options.clear_options()
        for name in EDITABLE:
            options.add_option(Option(_row(name, self._value_text(name)), id=name))
        options.add_option(Option(Content.styled("\nKeys", "bold $accent"), disabled=True))
        for key_id, (keys, description) in self._keys.items():
            own = self._settings.keys.get(key_id)
            text = ", ".join(format_key(key) for key in (own or keys).split(","))
            row = _row(f"{key_id.split('.')[0]}: {description}", text, bool(own))
            options.add_option(Option(row, id=f"key:{key_id}"))
        options.highlighted = index

    def _value_text(self, name: str) -> str:
        value = getattr(self._settings, name)
        return {True: "on", False: "off"}.get(value, str(value))

    @on(OptionList.OptionHighlighted)
    def _describe(self, event: OptionList.OptionHighlighted) -> None:
        field = Settings.model_fields.get(event.option.id or "")
        text = (field.description or "") if field else "Enter binds another key."
        self.query_one("#about", Static).update(text)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        name = event.option.id or ""
        if name.startswith("key:"):
            self._ask_key(name.removeprefix("key:"))
        else:
            self.action_cycle(1)

    def _ask_key(self, key_id: str) -> None:
        keys, description = self._keys[key_id]

        def accept(text: str | None) -> None:
            if text is not None:
                others = {k: v for k, v in self._settings.keys.items() if k != key_id}
                self._save_keys(others | ({key_id: text.strip()} if text.strip() else {}))

        detail = "Key names separated by commas, e.g. ctrl+r or f6; empty restores the default."
        current = self._settings.keys.get(key_id, keys)
        self.app.push_screen(InputDialog(description, detail, current), accept)

    def _save_keys(self, keys: dict[str, str]) -> None:
        kgpt_app(self).save_settings(keys=keys)
        self.app.set_keymap(keys)
        self._update_list()

    @property
    def _highlighted(self) -> str:
        """The id of the highlighted entry."""
        options = self.query_one(OptionList)
        index = options.highlighted
        return "" if index is None else options.get_option_at_index(index).id or ""

    def action_cycle(self, offset: int) -> None:
        """Take the next value of the highlighted setting."""
        name = self._highlighted
        if name not in EDITABLE:
            return
        values = self._values(name)
        current = getattr(self._settings, name)
        index = values.index(current) if current in values else 0
        self._set(name, values[(index + offset) % len(values)])

    def action_reset(self) -> None:
        name = self._highlighted
        if name.startswith("key:"):
            key_id = name.removeprefix("key:")
            self._save_keys({k: v for k, v in self._settings.keys.items() if k != key_id})
        elif name in EDITABLE:
            self._set(name, Settings.model_fields[name].default)

    def _values(self, name: str) -> list[Any]:
        if name == "theme":
            return sorted(self.app.available_themes)
        annotation = Settings.model_fields[name].annotation
        return [False, True] if annotation is bool else list(get_args(annotation))

    def _set(self, name: str, value: Any) -> None:
        kgpt_app(self).save_settings(**{name: value})
        if name == "theme":
            self.app.theme = str(value)
        self.app.set_class(self._settings.compact, "-compact")
        self._update_list()


def remappable_keys(screens: list[Screen[Any]], app: App[Any]) -> dict[str, tuple[str, str]]:
    """(keys, description) by id of every binding that has both."""
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
