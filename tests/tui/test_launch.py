"""Starting and resuming trainers from the app: commands sent early count, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kgpt.config import Config
from kgpt.errors import RunError
from kgpt.runs import Run
from kgpt_tui.runs.watch import WatchScreen
from kgpt_tui.shared import launch
from tests.tui.driving import drive, screen_text, wait_until
from tests.tui.fake_trainer import make_run

LATE_TRAINER = """
import sys, time
from pathlib import Path
from kgpt.runs import Run
run = Run(Path(sys.argv[1]))
while not (run.path / "go").exists():
    time.sleep(0.02)
run.lock()
(run.path / "taken").write_text(" ".join(name for name, _ in run.take_commands()))
"""
REFUSED = "import sys; print('kgpt: The data set is another.', file=sys.stderr); sys.exit(2)"


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The program that stands in for the trainer; it gets the run's folder as its argument."""
    program = [LATE_TRAINER]
    popen = subprocess.Popen

    def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        folder = str(Path(command[command.index("train") + 1]).parent)
        return popen([sys.executable, "-c", program[0], folder], **options)

    monkeypatch.setattr(launch.subprocess, "Popen", spawn)
    return program


def test_a_command_sent_while_the_trainer_starts_is_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: list[str]
) -> None:
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path))
    run = launch.start(Config.load("tinyworld"), "fox", "jax")
    run.send("stop")
    (run.path / "go").touch()
    assert wait_for(run.path / "taken") == "stop"


def test_commands_left_for_an_earlier_trainer_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: list[str]
) -> None:
    run = make_run(tmp_path, "fox", state="stopped")
    (run.path / "control").mkdir()
    (run.path / "control" / "pause").touch()
    launch.resume(run)
    run.send("checkpoint")
    (run.path / "go").touch()
    assert wait_for(run.path / "taken") == "checkpoint"


def test_a_trainer_started_elsewhere_drops_commands_left_for_an_earlier_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", state="stopped", pid=1)
    (run.path / "control").mkdir()
    (run.path / "control" / "pause").touch()
    run.lock()
    assert run.take_commands() == []


@pytest.mark.parametrize("state", ["finished", "stopped"])
def test_a_resume_that_is_refused_leaves_the_run_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: list[str], state: str
) -> None:
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path / "runs"))
    trainer[0] = REFUSED
    run = make_run(tmp_path / "runs", "fox", step=400, total=400, state=state)

    async def script(app: Any, pilot: Any) -> None:
        app.open_run(run.path)
        await wait_until(pilot, lambda: isinstance(app.screen, WatchScreen))
        await wait_until(pilot, lambda: app.screen.monitor.state == state)
        launch.resume(run, max_steps=800)
        await wait_until(pilot, lambda: "could not be resumed" in screen_text(app))
        assert "The data set is another." in screen_text(app)
        action = "train_longer" if state == "finished" else "resume"
        assert app.screen.check_action(action, ())  # may be tried again

    drive(script, tmp_path)
    status = Run(run.path).status()
    assert (status.state, status.step, status.total_steps) == (state, 400, 400)


def test_an_active_run_is_not_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox")
    with pytest.raises(RunError, match="need not be resumed"):
        launch.resume(run)


def wait_for(file: Path) -> str:
    """The text of `file`, once it is there."""
    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return file.read_text()
