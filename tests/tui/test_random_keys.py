"""The whole app under random keys, pastes, resizes, dialogs, failing servers and killed engines.

Nothing is raised, and what was typed into a chat is sent, kept as its draft, or in the composer.
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import pytest
from textual import events
from textual.geometry import Size
from textual.pilot import Pilot

from kgpt.config import Config
from kgpt.runs import Run, new_run
from kgpt_tui.app import KgptApp
from kgpt_tui.chat.commands import COMMANDS
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.screen import ChatScreen
from kgpt_tui.chat.store import Store
from kgpt_tui.models import server
from kgpt_tui.shared import launch
from kgpt_tui.train import screen as train_screen
from kgpt_tui.train.cost import Throughput
from tests.tui import fake_server
from tests.tui.driving import burst, drive, settled, wait_until
from tests.tui.fake_server import FakeServer
from tests.tui.fake_trainer import make_run

CHARACTERS = [*"abcdeghijklmnoprstuvxyzGHLM123/?"]
KEYS = [
    *CHARACTERS, *(f"f{n}" for n in (1, 2, 3, 4, 5, 6, 10)), "enter", "escape", "tab", "shift+tab",
    *("left", "right", "shift+left", "shift+right", "home", "end", "pageup", "pagedown", "space"),
    *(f"ctrl+{letter}" for letter in "bfglnprsty"), "ctrl+j",
]  # fmt: skip
IN_LISTS = ["up", "down", "backspace", "delete"]  # in the composer they change what was typed
SIZES = [(40, 12), (80, 24), (120, 40), (30, 8)]
LINES = [
    *(f"/{name}" for name in COMMANDS if name != "quit"), "/model fox", "/set top-k=3",
    "/mode text", "/system Be brief.", "/prefill Once", "/preset greedy", "/search word",
    "/title T", "/export a.md", "/import a.md", "/model " + "x" * 300, "/save-preset mine",
]  # fmt: skip
REMOVED: list[str] = []
FAULTS = ["", "", "", "die", "hang", "garbage", "refuse", "not json"]


class Typist:
    """Presses random keys in `app`, and types numbered words into the composer."""

    def __init__(self, app: KgptApp, pilot: Pilot[None], fake: FakeServer, seed: int):
        self.app, self.pilot, self.fake = app, pilot, fake
        self.random = random.Random(seed)
        self.words: list[str] = []
        self.log: list[str] = []

    @property
    def composer(self) -> Composer | None:
        focused = self.app.screen.focused
        return focused if isinstance(focused, Composer) else None

    async def press(self) -> None:
        chance = self.random.random()
        if chance < 0.02:
            await self.resize()
        elif chance < 0.04:
            self.fake.fault = self.random.choice(FAULTS)
            self.log.append(f"fault {self.fake.fault!r}")
        elif chance < 0.045:
            self.kill_engine()
        elif self.composer is None:
            await self.burst(self.random.choice(KEYS + IN_LISTS))
        elif chance < 0.15 and not self.composer.text:
            await self.type_word()
        elif chance < 0.25 and not self.composer.text:
            await self.burst(*self.random.choice(LINES), "enter")
        else:
            await self.burst(self.random.choice([key for key in KEYS if len(key) > 1]))

    async def burst(self, *keys: str) -> None:
        self.log.append(" ".join(keys))
        burst(self.app, *keys)
        await settled(self.app)

    async def type_word(self) -> None:
        word = f"word{len(self.words)}."
        self.words.append(word)
        if self.random.random() < 0.2:
            self.log.append(f"paste {word}")
            self.app.post_message(events.Paste(word))
            await self.burst(self.random.choice(["enter", "ctrl+n", "f4"]))
            return
        await self.burst(*word, *self.random.choice([(), ("enter",), ("ctrl+n",), ("f4",)]))

    def kill_engine(self) -> None:
        """End the engine that the app has started, if any."""
        process = self.app.get_screen_stack("chat")[0].controller.connection.server._process
        if process is not None and process.returncode is None:
            self.log.append("kill")
            process.kill()

    async def resize(self) -> None:
        width, height = self.random.choice(SIZES)
        self.log.append(f"{width}x{height}")
        size = Size(width, height)
        self.app._driver._size = size  # as Pilot.resize_terminal does, without its pause
        self.app.post_message(events.Resize(size, size))
        await asyncio.sleep(0)


async def start_app(app: KgptApp, pilot: Pilot[None], fake: FakeServer) -> None:
    app.switch_mode("chat")
    await wait_until(pilot, lambda: isinstance(app.screen, ChatScreen) and app.screen.focused)
    app.screen.controller.connection.connect(fake.address)
    await wait_until(pilot, lambda: app.screen.controller.session.info)


def written(app: KgptApp, folder: Path) -> str:
    """All that is in the composer, and in the messages and drafts stored, deleted ones included."""
    chat = app.get_screen_stack("chat")[0]
    chat.controller.autosave()
    database = Store(folder / "chats" / "chats.db")._database
    parts = [chat.query_one(Composer).text]
    parts += [row[0] for row in database.execute("SELECT content FROM messages")]
    parts += [row[0] for row in database.execute("SELECT draft FROM conversations")]
    return "\n".join(parts + REMOVED)


@pytest.fixture(autouse=True)
def harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, served, quit or written outside the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)
    make_run(tmp_path / "runs", "fox")
    make_run(tmp_path / "runs", "owl", state="finished")

    def start(config: Config, name: str, backend: str) -> Run:
        return make_run(tmp_path / "runs", new_run(name).name, 20)

    async def measure(config: Config, backend: str) -> Throughput:
        return Throughput("measured", config, backend, 1000.0)

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "resume", lambda run, **options: None)
    monkeypatch.setattr(train_screen, "measure_throughput", measure)
    monkeypatch.setattr(server, "PROGRAM", [sys.executable, fake_server.__file__])
    keep_removed(monkeypatch)
    for name in ("action_quit", "deliver_screenshot", "action_suspend_process"):
        monkeypatch.setattr(KgptApp, name, lambda self, *_: None)


def keep_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages deleted on purpose stay among those that `written` gives."""
    REMOVED.clear()
    remove = Store.remove_messages

    def keep(store: Store, conversation: Conversation, messages: list[Message]) -> None:
        REMOVED.extend(message.content for message in messages)
        remove(store, conversation, messages)

    monkeypatch.setattr(Store, "remove_messages", keep)


@pytest.mark.parametrize(
    ("seed", "keys"),
    [
        *((seed, 150) for seed in range(3)),
        *(pytest.param(seed, 2000, marks=pytest.mark.slow) for seed in range(30)),
    ],
)
def test_random_keys_raise_nothing_and_lose_nothing(tmp_path: Path, seed: int, keys: int) -> None:
    async def opened(app: KgptApp, pilot: Pilot[None]) -> None:
        async with FakeServer(pause=0.01) as fake:
            await start_app(app, pilot, fake)
            typist = Typist(app, pilot, fake, seed)
            try:
                for _ in range(keys):
                    await typist.press()
                kept = written(app, tmp_path)
                assert not [word for word in typist.words if word not in kept]
            finally:
                print("\n".join(typist.log[-80:]))

    drive(opened, tmp_path, size=random.Random(seed).choice(SIZES))
