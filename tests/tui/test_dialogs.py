"""Dialogs and screens in any order, and names that no file system takes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.events import Paste
from textual.pilot import Pilot
from textual.widgets import Input

from kgpt_tui.app import KgptApp
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.home.screen import HomeScreen
from kgpt_tui.models.discovery import data_sets, models, texts
from kgpt_tui.models.screen import ModelScreen
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared.help import sections
from kgpt_tui.shared.text_dialog import TextDialog
from kgpt_tui.train.screen import TrainScreen
from tests.tui.chatting import Chat, chat
from tests.tui.driving import burst, drive, said, settled, wait_until
from tests.tui.fake_trainer import make_run

MODES = ("f2", "f3", "f4", "f5")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("opener", ["f1", "f10", "ctrl+p"])
def test_every_dialog_opens_on_every_screen_at_once(tmp_path: Path, opener: str) -> None:
    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        for mode in MODES:
            burst(app, mode, opener)
        await settled(app)
        for mode in MODES:  # each is still there, and Escape closes it
            burst(app, mode)
            await settled(app)
            assert len(app.screen_stack) == 2
            assert opener != "ctrl+p" or isinstance(app.screen, CommandPalette)
            burst(app, "escape")
            await settled(app)
            await wait_until(pilot, lambda: len(app.screen_stack) == 1)

    drive(script, tmp_path)


def test_screens_opened_over_one_another_do_not_pile_up(tmp_path: Path) -> None:
    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        for _ in range(5):
            burst(app, "f1", "f10", "enter", "ctrl+p")  # enter edits a setting, in a dialog
        await settled(app)
        names = [screen.name or type(screen).__name__ for screen in app.screen_stack[1:]]
        assert len(names) == len(set(names)), names
        assert len(app._background_screens) < 3  # that are drawn below the one shown
        for below in range(len(names), 0, -1):
            burst(app, "escape")
            await settled(app)
            await wait_until(pilot, lambda below=below: len(app.screen_stack) == below)

    drive(script, tmp_path)


def test_a_run_takes_the_place_of_the_one_watched_before(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "runs", name) for name in ("fox", "owl")]

    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        for run in runs * 2:
            app.open_run(run.path)
            burst(app, "f1", "f2")
            await settled(app)
        burst(app, "f4", "escape")
        await settled(app)
        watched = app.screen
        assert isinstance(watched, WatchScreen) and watched.monitor.name == "owl"
        await wait_until(pilot, lambda: len(app.screen_stack) == 2)

    drive(script, tmp_path)


def test_a_run_is_chatted_with_while_a_dialog_lies_over_the_chat(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", "fox")

    async def script(chat: Chat) -> None:
        asked: list[str] = []
        chat.controller.connection.use_model = asked.append  # type: ignore[method-assign]
        burst(chat.app, "ctrl+l")
        await settled(chat.app)
        chat.app.open_run(run.path)
        await chat.until(lambda: isinstance(chat.app.screen, WatchScreen))
        await chat.until(lambda: chat.app.screen.monitor.state == "training")
        burst(chat.app, "t")
        await settled(chat.app)
        assert asked == ["fox"] and isinstance(chat.app.screen, ModelScreen)

    chat(script, tmp_path)


def test_a_long_line_names_no_model_and_no_run(tmp_path: Path) -> None:
    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        burst(app, "c", "ctrl+l")
        await settled(app)
        app.post_message(Paste("x/" * 2000 + "y" * 300))
        burst(app, "enter")
        await wait_until(pilot, lambda: "There is no run" in said(app))
        burst(app, "f5")
        await settled(app)
        assert isinstance(app.screen, TrainScreen)
        app.screen.query_one("#run", Input).focus()
        app.post_message(Paste("z" * 300))
        await settled(app)
        app.screen.action_start()
        await wait_until(pilot, lambda: "data set" in said(app) or "shorten" in said(app))

    drive(script, tmp_path)


def test_folders_that_may_not_be_read_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked" / "inner").mkdir(parents=True)
    (tmp_path / "poem.txt").write_text("a")
    make_run(tmp_path / "runs", "locked")
    make_run(tmp_path / "runs", "fox")
    stat, listdir = os.stat, os.listdir

    def refuse(path: object) -> None:
        if isinstance(path, str | Path) and "locked" in Path(path).parts:
            raise PermissionError(13, "Permission denied", str(path))

    def guarded_stat(path, *args, **named):
        refuse(path)
        return stat(path, *args, **named)

    def guarded_listdir(path="."):
        refuse(path)
        return listdir(path)

    monkeypatch.setattr(os, "stat", guarded_stat)
    monkeypatch.setattr(os, "listdir", guarded_listdir)
    assert [path.name for path in texts()] == ["poem.txt"]
    assert data_sets() == []
    assert [model.source for model in models()] == ["fox"]

    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        burst(app, "c", "ctrl+l", *"locked", "enter")
        await wait_until(pilot, lambda: "There is no run" in said(app))

    drive(script, tmp_path)


def test_adapters_are_found_among_the_models(tmp_path):
    adapter = tmp_path / "poet"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "/models/fox"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert models(tmp_path) == []  # without its weights
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    (found,) = models(tmp_path)
    assert (found.source, found.detail) == (str(adapter), "adapter of fox")


def test_a_model_in_several_files_is_found(tmp_path):
    model = tmp_path / "fox"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    assert models(tmp_path) == []  # without its weights
    (model / "model.safetensors.index.json").write_bytes(b"")
    (found,) = models(tmp_path)
    assert (found.source, found.detail) == (str(model), "llama")


ESCAPES = "\x1b[31mred\x1b[0m \x1b]0;title\x07and\r\n\x9b1mbold\x08 \x1b(Bend"
PLAIN = "red and\nbold end"


def test_escape_sequences_are_no_part_of_what_is_pasted(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        composer = chat.screen.query_one(Composer)
        chat.app.post_message(Paste(ESCAPES))
        await settled(chat.app)
        assert composer.text == PLAIN
        burst(chat.app, "ctrl+l")
        await settled(chat.app)
        chat.app.post_message(Paste(ESCAPES))
        await settled(chat.app)
        assert chat.app.screen.query_one(Input).value == PLAIN.replace("\n", " ")

    chat(script, tmp_path)


def test_an_answer_with_escape_sequences_is_edited_as_text(tmp_path: Path) -> None:
    async def script(chat: Chat) -> None:
        await chat.ask()
        chat.screen.query_one(MessageList).edit(chat.path[-1])
        await settled(chat.app)
        dialog = chat.app.screen
        assert isinstance(dialog, TextDialog)
        burst(chat.app, "!", "ctrl+s")
        await settled(chat.app)
        await chat.until(lambda: chat.texts[-1] == PLAIN + "!")

    chat(script, tmp_path, answer=ESCAPES)


def test_keys_come_before_the_palette_has_its_list(tmp_path: Path) -> None:
    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        for key in ("pagedown", "pageup", "down"):
            burst(app, "ctrl+p", "x", key, "escape", "escape")
            await settled(app)
        assert isinstance(app.screen, HomeScreen)

    drive(script, tmp_path)


def test_help_lists_each_key_once_in_its_section(tmp_path: Path) -> None:
    async def script(app: KgptApp, pilot: Pilot[None]) -> None:
        for mode in MODES:
            burst(app, mode)
            await settled(app)
            for title, rows in sections(app.screen):
                keys = [key for shown, _ in rows for key in shown.split(", ") if key != "esc"]
                assert len(keys) == len(set(keys)), (mode, title)  # Escape differs by the moment

    drive(script, tmp_path)
