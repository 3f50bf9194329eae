"""The app: command-line options, modes, themes, keys and the command palette."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from textual.app import App, SystemCommand
from textual.binding import Binding
from textual.command import CommandPalette
from textual.events import Event, Key, Paste
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Input

from kgpt.errors import KgptError
from kgpt_tui import screens
from kgpt_tui.shared.app_protocol import Options
from kgpt_tui.shared.display import pasteable
from kgpt_tui.shared.ordered_input import OrderedInput
from kgpt_tui.shared.settings import Settings, SettingsFile
from kgpt_tui.shared.textual_private import Palette
from kgpt_tui.shared.themes import THEMES, markdown_styles


class KgptApp(App[None]):
    """Home, chat, runs and training: each a mode with its own stack of screens."""

    TITLE = "kgpt"
    CSS_PATH = "app.tcss"
    MODES = {name: partial(screens.make, name) for name in screens.MODES}
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (70, "-normal"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-tall")]
    BINDINGS = [
        Binding("f1", "help", "Help", id="app.help", priority=True),
        Binding("f2", "go('home')", "Home", id="app.home", show=False, priority=True),
        Binding("f3", "go('chat')", "Chat", id="app.chat", show=False, priority=True),
        Binding("f4", "go('runs')", "Runs", id="app.runs", show=False, priority=True),
        Binding("f5", "go('train')", "Train", id="app.train", show=False, priority=True),
        Binding("f10", "settings", "Settings", id="app.settings", show=False, priority=True),
        Binding("ctrl+q", "quit", "Quit", id="app.quit", priority=True),
    ]

    def __init__(self, options: Options | None = None):
        super().__init__()
        self.options = options or Options()
        self.settings_file = SettingsFile(self.options.settings)
        self.input = OrderedInput(self, super().on_event)
        for theme in THEMES:
            self.register_theme(theme)
        known = self.settings.theme in self.available_themes
        self.theme = self.settings.theme if known else THEMES[0].name
        self.set_keymap(self.settings.keys)
        self.set_class(self.settings.compact, "-compact")

    @property
    def settings(self) -> Settings:
        return self.settings_file.values

    def save_settings(self, **changes: Any) -> None:
        """Change some settings and save all of them; a failure is shown, not raised."""
        for name, value in changes.items():
            setattr(self.settings, name, value)
        if problem := self.settings_file.save():
            self.notify(problem, severity="warning", markup=False)

    def get_default_screen(self) -> Screen[Any]:
        return Screen(id="_default")

    async def on_event(self, event: Event) -> None:
        if isinstance(event, Key | Paste) and not event.is_forwarded:
            if isinstance(event, Paste):
                event.text = pasteable(event.text, isinstance(self.focused, Input))
            self.input.put(event)
        else:
            await super().on_event(event)

    def on_mount(self) -> None:
        self.run_worker(self.input.run(), group="input")
        self.theme_changed_signal.subscribe(self, self._on_theme_changed)
        self._on_theme_changed(self.current_theme)
        for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal ends the app cleanly
            with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):
                asyncio.get_running_loop().add_signal_handler(number, self.exit)
        if self.options.run:
            self.open_run(self.options.run)
        else:
            self.switch_mode("chat" if self.options.model or self.options.server else "home")
        if self.settings_file.problem:
            self.notify(self.settings_file.problem, severity="warning", markup=False)

    def _on_theme_changed(self, theme: Theme) -> None:
        """Save the choice, and restyle Markdown in messages."""
        self.console.push_theme(markdown_styles(self.theme_variables))
        if theme.name != self.settings.theme:
            self.save_settings(theme=theme.name)

    # -- navigation: screens call these and never import one another ------------------------------

    def open_chat(self, model: str | None = None) -> None:
        """Go to the chat; with `model` (a directory, run or run@step), chat with that."""
        self.switch_mode("chat")
        if model is not None:
            chat = self.get_screen_stack("chat")[0]  # a dialog may lie over it
            chat.call_after_refresh(lambda: chat.use_model(model))  # type: ignore[attr-defined]

    def open_run(self, run: Path | str) -> None:
        """Watch a run, on top of the table of runs and in place of what is there."""
        from kgpt.runs import find_run

        self.switch_mode("runs")
        try:
            watch = screens.make("watch", find_run(str(run)).path)
        except KgptError as error:
            self.notify(str(error), severity="error", markup=False)
            return
        for _ in self.screen_stack[1:]:
            self.pop_screen()
        self.push_screen(watch)

    def open_train(self) -> None:
        """Go to the form that starts a run."""
        self.switch_mode("train")

    def action_go(self, mode: str) -> None:
        self.switch_mode(mode)

    async def action_quit(self) -> None:
        """Quit, after asking what to do with active runs that were started here."""
        from kgpt_tui.shared.quit import quit_app

        self.run_worker(quit_app(self), group="quit", exclusive=True)

    def action_help(self) -> None:
        if not self._is_open("help"):
            self._push_over(screens.make("help", self.screen))

    def action_settings(self) -> None:
        if not self._is_open("settings"):
            self._push_over(screens.make("settings"))

    def _push_over(self, screen: Screen[Any]) -> None:
        """Push `screen`; over a dialog it hides what is below, which Textual would draw again for
        each line of each dialog."""
        screen.set_class(self.screen.is_modal, "-over-dialog")
        self.push_screen(screen)

    def _is_open(self, name: str) -> bool:
        """True if a screen of this name is shown, or lies under the one that is."""
        return any(screen.name == name for screen in self.screen_stack)

    def action_command_palette(self) -> None:
        if not any(isinstance(screen, CommandPalette) for screen in self.screen_stack):
            self._push_over(Palette())  # Textual's has an id: one in all modes

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        yield SystemCommand("Home", "What can be done here (F2)", partial(self.action_go, "home"))
        yield SystemCommand("Chat", "Chat with a model (F3)", partial(self.action_go, "chat"))
        yield SystemCommand("Runs", "All training runs (F4)", partial(self.action_go, "runs"))
        yield SystemCommand("Train", "Start a training run (F5)", partial(self.action_go, "train"))
        yield SystemCommand("Keys", "Every key of this screen (F1)", self.action_help)
        yield SystemCommand("Settings", "Theme, rendering, keys (F10)", self.action_settings)
        yield SystemCommand("Theme", "Choose the colours", self.search_themes)
        yield SystemCommand("Screenshot", "Save an SVG picture", self.deliver_screenshot)
        yield SystemCommand("Quit", "Quit kgpt", self.action_quit)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of `kgpt-tui`."""
    parser = argparse.ArgumentParser(prog="kgpt-tui", description="Chat, watch and train.")
    parser.add_argument(
        "--model",
        help="a model directory, a run, or run@step to chat with; with --server one of its",
    )
    parser.add_argument("--server", help="address of a running `kgpt serve`")
    parser.add_argument("--api-key-file", type=Path, help="file that contains the server's key")
    parser.add_argument("--run", help="a training run to watch")
    parser.add_argument("--web", action="store_true", help="serve the app to a local browser")
    parser.add_argument("--version", action="store_true", help="print the version")
    chosen = vars(parser.parse_args(arguments))
    if chosen.pop("version"):
        from kgpt import __version__

        print(f"kgpt {__version__}")
        return
    web = chosen.pop("web")
    try:
        if web:
            from kgpt_tui.web import serve

            serve(Options(**chosen))
        else:
            KgptApp(Options(**chosen)).run()
    except KgptError as error:
        print(f"kgpt-tui: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
