"""The demo: which run it takes, what it asks, what it says, and the whole of it in small."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from kgpt.cli import demo as demonstration
from kgpt.cli.tinyworld import make_tinyworld
from kgpt.data.tinyworld import is_held_out
from kgpt.errors import KgptError
from kgpt.runs import RunStatus, new_run

TINY = [
    *("--model.num-layers", "1", "--model.num-heads", "2", "--model.hidden-dim", "16"),
    *("--model.intermediate-dim", "32", "--train.max-steps", "3", "--train.batch-size", "2"),
    *("--train.log-every", "1", "--train.eval-batches", "1", "--questions", "10"),
]


def a_run(name, **status):
    run = new_run(name)
    run.write_config("")
    run.write_status(RunStatus(**status))
    return run


def test_the_first_demo_has_the_plain_name():
    assert demonstration.next_run().name == "demo"


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_an_interrupted_demo_goes_on(state):
    a_run("demo", state="finished")
    a_run("demo-2", state=state)
    assert demonstration.next_run().name == "demo-2"


def test_a_killed_demo_goes_on():
    a_run("demo", state="training", pid=2**22 + 1, host=os.uname().nodename)
    assert demonstration.next_run().name == "demo"


@pytest.mark.parametrize("state", ["finished", "training"])
def test_a_finished_demo_and_one_that_is_training_are_left_alone(state):
    a_run("demo", state=state, pid=os.getpid(), host=os.uname().nodename)
    assert demonstration.next_run().name == "demo-2"


def test_the_questions_are_held_out_and_all_different():
    asked = demonstration.held_out_questions(200)
    assert len({question.text for question in asked}) == 200
    assert all(is_held_out(*question.combination) for question in asked)


def test_the_table_says_what_is_right_and_what_is_wrong():
    asked = demonstration.held_out_questions(2)
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(demonstration.answers_table(asked, [asked[0].answer, "[red]No."]))
    lines = console.export_text().splitlines()
    assert any(asked[0].answer in line and "right" in line for line in lines)
    assert any("[red]No." in line and "wrong" in line for line in lines)


def test_only_a_figure_that_is_no_bad_luck_fails():
    demonstration.check(0.85)
    with pytest.raises(KgptError, match="50%"):
        demonstration.check(0.5)


@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world") / "tinyworld"
    make_tinyworld(folder, True, conversations=300, stories=30)
    return folder


def test_the_whole_demo_in_small(small_world, tmp_path):
    """Untrained it must fail by its figure, and by nothing else; what it trained stays."""

    def demo(*arguments):
        command = [sys.executable, "-m", "kgpt", "demo", "--data", str(small_world), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)

    first = demo(*TINY)
    assert first.returncode == 1, first.stderr
    assert "of 10 held-out questions answered correctly" in first.stdout
    assert "you   Good morning!" in first.stdout
    assert "means too few training steps" in first.stderr and "Traceback" not in first.stderr
    run = new_run("demo")
    assert run.status().state == "finished" and run.pointer("latest") == 3
    assert "val_loss" in json.dumps(run.metrics())

    again = demo("--run", "demo", "--quiet", "--questions", "10")
    assert again.stdout.count("\n") == 1
    assert first.stdout.splitlines()[-1] == again.stdout.strip()
    assert run.status().step == 3
