"""End to end: the app in a real terminal, with a real trainer and a real server."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest

from kgpt.runs import FINAL_STATES, Run, all_runs
from tests.tui.terminal import Terminal, kgpt_tui

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux"),
]

TINY = """\
model: {num_layers: 1, num_heads: 2, hidden_dim: 32, intermediate_dim: 64, max_length: 4096,
        position: rotary, norm: rms, activation: swiglu, bias: false}
data: {dir: data/tinyworld, assistant_only_loss: true}
train: {max_steps: 500000, batch_size: 4, sequence_length: 96, log_every: 10,
        eval_every: 0, checkpoint_every: 0, sample_every: 200, sample_prompts: ["It was Monday."]}
sampling: {max_tokens: 60, temperature: 0.7}
"""
DATA = """\
from pathlib import Path
from kgpt.cli.tinyworld import make_tinyworld
make_tinyworld(Path("data/tinyworld"), quiet=True, conversations=400, stories=60)
"""


@pytest.fixture
def home(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    subprocess.run([sys.executable, "-c", DATA], cwd=tmp_path, check=True, timeout=120)
    return tmp_path


@pytest.fixture
def environment(tmp_path):
    return {
        "KGPT_RUNS": str(tmp_path / "runs"), "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_DATA_HOME": str(tmp_path / "share"),
        "TEXTUAL_ANIMATIONS": "none",
        "COLORTERM": "truecolor", "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1",
    }  # fmt: skip


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()
    for run in all_runs(tmp_path / "runs"):
        if run.status().state not in FINAL_STATES and not run.status().is_dead:
            os.kill(run.status().pid, 9)


def test_train_watch_chat_detach_and_reattach(terminal, home, environment):
    run = Run(home / "runs" / "tiny")
    terminal.start(kgpt_tui(), environment)
    terminal.wait("Run the demo")
    terminal.keys("t")
    terminal.wait("Measure time")
    terminal.press_until("Right", "‹ tiny.yaml ›")  # the file after the presets
    terminal.wait("unknown until measured")
    terminal.keys("C-s")
    terminal.wait("training", 180)
    terminal.wait(lambda: run.status().state == "training", 400)
    terminal.keys("p")
    terminal.wait("● paused")
    assert run.status().state == "paused"
    assert run.checkpoint_steps()  # pausing saves a checkpoint
    terminal.keys("p")
    terminal.wait("● training")
    terminal.keys("o", "l", "2")
    terminal.wait("It was Monday.", 120)
    terminal.keys("3")
    terminal.wait("1 charts")
    terminal.keys("1")
    chat(terminal)
    terminal.keys("C-q")
    terminal.wait("Quit kgpt?")
    terminal.keys("d")
    terminal.wait("ENDED")
    step = run.status().step
    terminal.wait(lambda: run.status().step > step and not run.status().is_dead)
    terminal.close()
    reattach(terminal, run, environment)


def chat(terminal):
    """Chat with a checkpoint of the run that is still training: stop one answer, branch another."""
    terminal.keys("t")
    terminal.wait("● tiny", 600)
    limit_tokens(terminal, 3800, 3900)  # long enough to be stopped, and within the context
    send(terminal, "Count the stars")
    terminal.wait(lambda: is_answering(terminal) and answer_tokens(terminal) > 0, 120)
    terminal.press_until("Escape", lambda: not is_answering(terminal))
    assert 0 < answer_tokens(terminal) < 3800
    terminal.keys("C-n")
    for setting in ("min_tokens=20", "max_tokens=30"):  # short: its heading stays on the screen
        terminal.type(f"/set {setting}")
        terminal.wait(setting)
        terminal.press_until("Enter", "Message…")
    send(terminal, "Tell me a story")
    terminal.wait(lambda: 20 <= answer_tokens(terminal) <= 30 and not is_answering(terminal), 120)
    terminal.keys("C-t", "Right", "Right", "Down", "Enter")  # another token than the third
    terminal.wait("‹ 2/2 ›", 120)
    terminal.keys("Escape", "C-f")
    terminal.type("story")
    terminal.wait(lambda: "Tell me a story" in "".join(terminal.screen().splitlines()[3:8]))


def limit_tokens(terminal, least, most):
    """Set min_tokens and max_tokens in the sampling panel, and go back to the composer."""
    terminal.keys("C-s", "Enter")
    retype(terminal, str(most))
    terminal.keys("Down", "Enter")
    retype(terminal, str(least))
    panel = terminal.wait(str(least))
    assert str(most) in panel
    terminal.keys("C-s")


def send(terminal, text):
    terminal.type(text)
    terminal.wait(text)
    terminal.press_until("Enter", f"▌ {text}")


def is_answering(terminal):
    return "esc Stop" in terminal.screen()


def answer_tokens(terminal):
    """The number of tokens of the last answer, from the status line below the composer."""
    found = re.search(r"context  (\d+) tokens", terminal.screen())
    return int(found[1]) if found else 0


def retype(terminal, text):
    """Replace the proposed value in the input dialog that was just opened, and accept it."""
    terminal.wait("enter accepts")
    for _ in range(5):
        terminal.keys("C-e", "C-u")
        terminal.type(text)
        with contextlib.suppress(AssertionError):
            terminal.wait(lambda: re.search(rf"│ +{text} +│", terminal.screen()), 5)
            break
    terminal.press_until("Enter", lambda: "enter accepts" not in terminal.screen())


def reattach(terminal, run, environment):
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


SMALL = """\
model: {num_layers: 1, num_heads: 2, hidden_dim: 16, intermediate_dim: 32, max_length: 48}
data: {assistant_only_loss: false}
train: {max_steps: 200, batch_size: 4, sequence_length: 32, warmup_steps: 4, log_every: 5,
        learning_rate: 0.01, eval_every: 100, checkpoint_every: 100, sample_every: 0}
sampling: {temperature: 0.7}
"""
STORY = "The old lamp burned low. A cat came in from the rain and sat by the door. "
TURNS = [{"role": "user", "content": "Who is there?"}, {"role": "assistant", "content": STORY}]
OWN = {"own.txt": STORY * 40, "own.jsonl": (json.dumps({"messages": TURNS}) + "\n") * 40}
ON_ONE_BACKEND = pytest.mark.skipif(
    os.environ["KERAS_BACKEND"] != "torch", reason="the app sees no backend: PyTorch is the fastest"
)


@pytest.mark.backend
@pytest.mark.parametrize("name", ["own.txt", pytest.param("own.jsonl", marks=ON_ONE_BACKEND)])
def test_the_first_hour_of_a_new_user(terminal, tmp_path, environment, name):
    """Own text or conversations, trained on, stopped, resumed, chatted with and trained longer."""
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / name).write_text(OWN[name])
    run = Run(tmp_path / "runs" / "small")
    terminal.start(kgpt_tui(), environment)
    terminal.wait("Run the demo", 120)
    terminal.keys("t")
    terminal.wait("Measure time")
    terminal.press_until("Right", "‹ small.yaml ›")
    prepare_own(terminal, name)
    terminal.press_until("C-s", run.path.exists)
    stop_at_once(terminal, run)
    terminal.keys("g")
    terminal.wait("● finished", 600)
    assert run.status().step == 200
    terminal.keys("t")
    terminal.wait("● small", 600)
    converse(terminal, beyond=48, told=name.endswith("jsonl"))
    terminal.keys("F4")
    terminal.wait("● finished")
    terminal.press_until("g", "Train longer")
    terminal.press_until("Enter", lambda: "Train longer" not in terminal.screen())
    terminal.wait(lambda: run.status().step == 400 and run.status().state == "finished", 600)
    terminal.wait("step 400 of 400")
    terminal.keys("F3")
    terminal.wait("● small")
    ask(terminal, "And still?")
    terminal.press_until("C-q", "ENDED")


def prepare_own(terminal, name):
    """Prepare a data set from the file `name` with the default tokenizer."""
    terminal.press_until("C-n", "A data set from your text")
    terminal.type(name)
    terminal.wait("data/own ")
    terminal.keys("C-s")
    recognized = terminal.wait("It is prepared in data/own.", 180)
    assert ("40 conversations (messages)" if name == "own.jsonl" else "text, 3.0 kB") in recognized
    terminal.wait("‹ data/own ›")


def stop_at_once(terminal, run):
    """Stop a run whose trainer is only starting; it saves what there is."""
    terminal.wait("loss")
    terminal.press_until("x", "Stop small?")
    terminal.press_until("y", lambda: "Stop small?" not in terminal.screen())
    terminal.wait("● stopped", 600)
    assert run.checkpoint_steps()[-1] == run.status().step < 200


def converse(terminal, beyond, told):
    """Ask until more than the context of `beyond` tokens was said; `told`: the meter says so.

    The last answer is then generated again, continued, and branched at one of its tokens.
    """
    for setting in ("min_tokens=8", "max_tokens=24"):
        terminal.type(f"/set {setting}")
        terminal.wait(setting)
        terminal.press_until("Enter", lambda: "/set" not in terminal.screen())
    for number in range(4):
        ask(terminal, f"Question {number}?")
    screen = terminal.screen()
    assert "Question 3?" in screen
    used = re.search(rf"(\d+)/{beyond} context", screen)
    assert used and int(used[1]) > beyond // 2  # the prompt alone fills half of it
    assert not told or "older left out" in screen
    terminal.keys("C-r")
    terminal.wait(lambda: "‹ 2/2 ›" in terminal.screen() and not is_answering(terminal))
    terminal.keys("C-g")
    terminal.wait(lambda: not is_answering(terminal))
    branch(terminal, "‹ 3/3 ›")
    assert "✗" not in terminal.wait(lambda: not is_answering(terminal))
    # The first goes to the panel where it is not focused, the next closes it.
    terminal.press_until("C-t", lambda: "Next token" not in terminal.screen())


def branch(terminal, number):
    """Choose another token of the last answer, the first that is whole characters."""
    terminal.keys("C-t")
    for _ in range(8):
        terminal.keys("Right", "Down", "Enter")
        with contextlib.suppress(AssertionError):
            terminal.wait(number, 5)
            return
    terminal.wait(number, 1)


def ask(terminal, text):
    """Send `text`, and wait for an answer of some tokens."""
    send(terminal, text)

    def is_answered():
        after = terminal.screen().rpartition(f"▌ {text}")[2]
        return re.search(r"▌ small  \d+ tokens", after) and not is_answering(terminal)

    terminal.wait(is_answered, 180)
