"""The whole journey, as a person takes it: a real terminal, a real trainer, a real server."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from kgpt.runs import ENDED, Run, all_runs
from tests.tui.terminal import Terminal, kgpt_tui

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]

TINY = """\
model: {num_layers: 1, num_heads: 2, hidden_dim: 32, intermediate_dim: 64, max_length: 8192,
        position: rotary, norm: rms, activation: swiglu, bias: false}
data: {dir: data/tinyworld, assistant_only_loss: true}
train: {max_steps: 500000, batch_size: 4, sequence_length: 96, log_every: 10,
        eval_every: 0, checkpoint_every: 0, sample_every: 200, sample_prompts: ["It was Monday."]}
sampling: {max_tokens: 60, temperature: 0.7}
"""
DATA = """\
from pathlib import Path
from kgpt.cli.data import make_tinyworld
make_tinyworld(Path("data/tinyworld"), quiet=True, conversations=400, stories=60)
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    subprocess.run([sys.executable, "-c", DATA], cwd=tmp_path, check=True, timeout=120)
    return tmp_path


@pytest.fixture
def environment(home):
    return {
        "KGPT_RUNS": str(home / "runs"), "HOME": str(home), "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "share"), "TEXTUAL_ANIMATIONS": "none",
        "COLORTERM": "truecolor", "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
    }  # fmt: skip


@pytest.fixture
def terminal(home):
    terminal = Terminal(home)
    yield terminal
    terminal.close()
    for run in all_runs(home / "runs"):
        if run.status().state not in ENDED and not run.status().is_dead:
            os.kill(run.status().pid, 9)


def test_train_watch_chat_detach_and_reattach(terminal, home, environment):
    run = Run(home / "runs" / "tiny")
    terminal.start(kgpt_tui(), environment)
    terminal.wait("Run the demo")
    terminal.keys("t")
    terminal.wait("Measure time")
    terminal.press_until("Right", "‹ tiny.yaml ›")  # the file after the preset tinyworld
    terminal.wait("unknown until measured")
    terminal.keys("C-s")
    terminal.wait("training", 180)
    terminal.wait(lambda: run.status().state == "training", 400)
    terminal.keys("p")
    terminal.wait("● paused")
    assert run.status().state == "paused"
    assert run.checkpoint_steps()  # a paused machine is often switched off
    terminal.keys("p")
    terminal.wait("● training")
    terminal.keys("o", "l", "2")
    terminal.wait("It was Monday.", 120)
    terminal.keys("3")
    terminal.wait("1 charts")
    terminal.keys("1")
    chat(terminal)
    terminal.keys("C-q")
    terminal.wait("Leave kgpt?")
    terminal.keys("d")
    terminal.wait("ENDED")
    step = run.status().step
    terminal.wait(lambda: run.status().step > step and not run.status().is_dead)
    terminal.close()
    come_back(terminal, run, environment)


def chat(terminal):
    """Talk with the checkpoint of the run that is still training."""
    terminal.keys("t")
    terminal.wait("● tiny", 300)
    terminal.keys("C-s", "Enter")
    retype(terminal, "4000")  # max_tokens, so that there is something to stop
    terminal.keys("Down", "Enter")
    retype(terminal, "3900")  # min_tokens
    controls = terminal.wait("3900")
    assert "4000" in controls
    terminal.keys("C-s")
    terminal.type("Tell me a story")
    terminal.keys("Enter")
    terminal.wait(lambda: re.search(r"[1-9]\d* tokens .*/s", terminal.screen()), 120)
    terminal.keys("Escape")
    terminal.wait("stopped")
    terminal.keys("C-t", "Right", "Right", "Down", "Enter")  # another token than the third
    terminal.wait("‹ 2/2 ›", 120)
    terminal.keys("Escape", "C-f")
    terminal.type("story")
    terminal.wait(lambda: "Tell me a story" in "".join(terminal.screen().splitlines()[3:8]))


def retype(terminal, text):
    """Replace what the question just opened proposes."""
    terminal.wait("enter accepts")
    terminal.keys("C-e", "C-u")
    terminal.type(text)
    terminal.keys("Enter")
    terminal.wait(lambda: "enter accepts" not in terminal.screen())


def come_back(terminal, run, environment):
    """Watch the same run from a new app, and stop it."""
    time.sleep(0.5)
    terminal.start(kgpt_tui("--run", "tiny"), environment)
    terminal.wait("● training")
    terminal.keys("x")
    terminal.wait("Stop tiny?")
    terminal.keys("y")
    terminal.wait("● stopped")
    assert run.status().state == "stopped"
    terminal.keys("C-q")
    terminal.wait("ENDED")
