"""The home screen: its actions, and its lists of runs and models."""

import sys

import pytest

from kgpt.config import Config
from kgpt_tui.home import screen as home
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared import launch
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.train.data_preparation import DataPreparation, PreparationError
from kgpt_tui.train.screen import TrainScreen
from tests.tui.driving import burst, drive, said, settled, wait_until
from tests.tui.fake_trainer import make_run


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_action_keys_open_their_screens(tmp_path):
    async def script(app, pilot):
        await pilot.press("t")
        await wait_until(pilot, lambda: isinstance(app.screen, TrainScreen))
        await pilot.press("f2", "w")
        await wait_until(pilot, lambda: app.current_mode == "runs")
        await pilot.press("f2", "c")
        await wait_until(pilot, lambda: app.current_mode == "chat")

    drive(script, tmp_path)


def test_lists_open_runs_and_models(tmp_path, monkeypatch):
    make_run(tmp_path / "runs", "fox")
    asked = []

    async def script(app, pilot):
        screen = app.screen
        await wait_until(pilot, lambda: screen._listed.get("models"))
        assert "active" in str(screen.query_one("#runs-heading").render())
        monkeypatch.setattr(app, "open_chat", asked.append)
        screen.query_one("#models").focus()
        await pilot.press("down", "enter")
        assert asked == ["fox"]
        screen.query_one("#runs").focus()
        await pilot.press("down", "enter")
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))

    drive(script, tmp_path)


def test_the_demo_prepares_its_data_and_starts(tmp_path, monkeypatch):
    started, commands = [], []

    class Fake(DataPreparation):
        def __init__(self, command):
            commands.append(command)
            super().__init__([sys.executable, "-c", "print('tokens ━━ 40% 1 MB/s')"])

    def start(config: Config, name: str, backend: str):
        started.append((config.train.max_steps, name))
        return make_run(tmp_path / "runs", name, 0, state="starting")

    monkeypatch.setattr(home, "DataPreparation", Fake)
    monkeypatch.setattr(launch, "start", start)

    async def script(app, pilot):
        await pilot.press("d")
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        assert started == [(Config.load("tinyworld").train.max_steps, "demo")]
        assert commands[0][3:6] == ["data", "get", "tinyworld"]

    drive(script, tmp_path)


def test_the_demo_takes_nobody_away_from_another_screen(tmp_path, monkeypatch):
    (tmp_path / "data" / "tinyworld").mkdir(parents=True)

    class Slow(DataPreparation):
        def __init__(self, command):
            script = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.02)"
            super().__init__([sys.executable, "-c", script])

    started = []

    def start(config: Config, name: str, backend: str):
        started.append(name)
        return make_run(tmp_path / "runs", name, 0, state="starting")

    monkeypatch.setattr(home, "DataPreparation", Slow)
    monkeypatch.setattr(launch, "start", start)

    async def script(app, pilot):
        burst(app, "d", "d", "d", "c", *"my text")
        await settled(app)
        (tmp_path / "go").touch()
        await wait_until(pilot, lambda: started)
        burst(app, *" goes on")
        await settled(app)
        assert app.current_mode == "chat" and app.screen.focused.text == "my text goes on"
        await wait_until(pilot, lambda: "F4 shows it" in said(app))
        burst(app, "f2", "d")
        await settled(app)
        assert isinstance(app.screen, ChoiceDialog)  # asks, now that there is one
        burst(app, "w")
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        assert started == ["demo"]

    drive(script, tmp_path)


def test_a_demo_that_cannot_start_says_why(tmp_path, monkeypatch):
    class Failing(DataPreparation):
        def __init__(self, command):
            script = "import sys; print('kgpt: The disk is full.', file=sys.stderr); sys.exit(1)"
            super().__init__([sys.executable, "-c", script])

    monkeypatch.setattr(home, "DataPreparation", Failing)

    async def script(app, pilot):
        await pilot.press("d")
        said = app.screen.query_one("#progress")
        await wait_until(pilot, lambda: "The disk is full." in str(said.render()))

    drive(script, tmp_path)


def test_progress_is_parsed_from_the_childs_bar():
    import asyncio

    seen = []
    bar = """if True:
        for n in (10, 55):
            print(f"tokenizer \\x1b[31m━━━\\x1b[0m {n}%", end="\\r", flush=True)
    """
    asyncio.run(DataPreparation([sys.executable, "-c", bar]).wait(seen.append))
    assert seen[-1] == "training a tokenizer, 55%"


def test_a_failed_child_reports_its_own_message():
    import asyncio

    script = "import sys; sys.stderr.write('noise\\nkgpt: No such file.\\n'); sys.exit(2)"
    with pytest.raises(PreparationError, match="^No such file.$"):
        asyncio.run(DataPreparation([sys.executable, "-c", script]).wait(lambda text: None))
