"""The run directory: rows, commands, locks and pointers survive the death of either side."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.errors import RunError, UsageError
from kgpt.runs import (
    COMMANDS,
    Run,
    RunStatus,
    all_runs,
    find_run,
    new_run,
    read_rows,
    resolve_model,
)

DEAD = 2**22 + 1  # above every process id


@pytest.fixture
def run():
    """A run that its trainer, this process, is at work on."""
    run = new_run("one")
    run.path.mkdir(parents=True)
    run.write_config("train: {}\n")
    status = RunStatus(state="training", step=3, pid=os.getpid(), host=socket.gethostname())
    run.write_status(status)
    return run


def make_checkpoint(run, step):
    folder = run.checkpoint_path(step)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@given(rows=st.lists(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.text())),
       cut=st.integers(0, 60))  # fmt: skip
def test_a_half_written_last_line_loses_only_itself(rows, cut, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
    last = json.dumps({"step": 1, "text": "é" * 20}, ensure_ascii=False).encode()
    file.write_bytes(b"".join(lines) + last[:cut])
    assert list(read_rows(file))[: len(rows)] == rows


def test_after_a_half_written_line_new_rows_are_whole(run):
    """A trainer killed in the middle of a row, and resumed: no row of the new life is lost."""
    run.append("metrics", {"step": 1, "loss": 2.0})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.truncate_after(1)
    run.append("metrics", {"step": 2, "loss": 1.5})
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_row_after_a_half_written_one_is_whole_even_without_resuming(run):
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')
    run.append("metrics", {"step": 2, "loss": 1.5})
    run.append("metrics", {"step": 3, "loss": 1.4})
    assert [row["step"] for row in run.metrics()][-1] == 3


@pytest.mark.parametrize(
    ("state", "pid", "begun", "taken"),
    [
        ("failed", 1, None, False),
        ("stopped", 1, None, False),
        ("compiling", DEAD, None, False),
        ("compiling", "this", None, True),
        ("failed", 1, "metrics", True),
        ("failed", 1, "checkpoint", True),
    ],
)
def test_a_run_that_made_no_step_does_not_keep_its_name(run, state, pid, begun, taken):
    pid = os.getpid() if pid == "this" else pid
    run.write_status(RunStatus(state=state, pid=pid, host=socket.gethostname()))
    if begun == "metrics":
        run.append("metrics", {"step": 1})
    elif begun == "checkpoint":
        make_checkpoint(run, 1)
    assert run.is_taken == taken


def test_undoing_a_start_gives_the_state_before_and_nothing_else_is_undone(run):
    ended = RunStatus(state="finished", step=3, pid=1)
    run.write_status(ended)
    run.undo_starting()
    assert run.status() == ended
    run.write_status(RunStatus(pid=os.getpid(), host="", **ended.before_resume()))
    run.undo_starting()
    assert (run.status().state, run.status().step) == ("finished", 3)
    assert run.status().state_before_resume is None


def test_rows_of_a_future_that_is_undone_are_forgotten(run):
    for step in (1, 2, 3):
        run.append("metrics", {"step": step})
        run.append("samples", {"step": step, "prompt": "é", "text": "🦊"})
    run.truncate_after(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    assert run.samples()[-1]["text"] == "🦊"


LOCKER = """
import sys, os, socket
from kgpt.runs import RunStatus, new_run
run = new_run("one")
run.lock()
run.write_status(RunStatus(state="training", pid=os.getpid(), host=socket.gethostname()))
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_run_in_use_is_refused_and_freed_when_its_process_is_killed(run):
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match=f"already being trained by process {process.pid}; stop it"):
        run.lock()
    assert not run.status().is_dead
    process.kill()
    process.wait()
    assert run.status().is_dead
    run.lock()
    run.unlock()


def test_a_run_elsewhere_is_dead_after_silence():
    there = RunStatus(state="training", host="elsewhere", pid=1, heartbeat=time.time())
    assert not there.is_dead
    assert there.model_copy(update={"heartbeat": time.time() - 60}).is_dead
    assert not there.model_copy(update={"heartbeat": 0, "state": "finished"}).is_dead


def test_commands_are_taken_once_and_in_order(run):
    for command in ("pause", "checkpoint", "resume"):
        run.send(command)
        time.sleep(0.002)
    run.send("sample", prompt="Once é")
    taken = run.take_commands()
    assert [command for command, _ in taken] == ["pause", "checkpoint", "resume", "sample"]
    assert taken[-1][1] == {"prompt": "Once é"}
    assert run.take_commands() == []


def test_a_damaged_or_unknown_command_file_harms_nothing(run):
    folder = run.path / "control"
    folder.mkdir()
    (folder / "pause").write_text("{not json")
    (folder / "stop").write_text("[1]")
    (folder / "explode").write_text("{}")
    (folder / "sample").write_bytes(b"\xff\xfe")
    assert {command for command, _ in run.take_commands()} == {"pause", "stop", "sample"}
    assert all(details == {} for _, details in run.take_commands())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_that_is_over_takes_no_commands(run, command):
    run.write_status(RunStatus(state="finished"))
    with pytest.raises(RunError, match=r"one is finished; resume it with .*--resume"):
        run.send(command)


def test_a_damaged_status_is_no_crash(run):
    (run.path / "status.json").write_text('{"state": "trai')
    assert run.status() == RunStatus()
    (run.path / "status.json").unlink()
    assert run.status().state == "starting"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "/abs"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(UsageError, match="cannot name a run"):
        new_run(name)


def test_runs_are_found_by_name_and_folder(run):
    assert find_run("one").path == run.path
    assert find_run(str(run.path)).path == run.path
    assert [found.name for found in all_runs()] == ["one"]
    with pytest.raises(RunError, match="There is no run 'two' .*; the runs there are: one"):
        find_run("two")


def test_checkpoints_are_those_with_a_step_and_pointers_to_them(run):
    for step in (500, 20, 1000):
        make_checkpoint(run, step)
    (run.checkpoints / ".partial-step-00002000-x").mkdir()
    assert run.checkpoint_steps() == [20, 500, 1000]
    assert run.pointer("best") is None
    run.set_pointer("best", 500)
    assert run.pointer("best") == 500
    run.set_pointer("latest", 7)  # its checkpoint is gone
    assert run.pointer("latest") is None


def test_a_model_is_a_directory_a_run_or_a_step_of_it(run, tmp_path):
    with pytest.raises(RunError, match="has no checkpoint yet"):
        resolve_model("one")
    folders = {step: make_checkpoint(run, step) for step in (10, 20)}
    assert resolve_model("one") == folders[20]
    run.set_pointer("best", 10)
    assert resolve_model("one") == folders[10]
    assert resolve_model("one@20") == folders[20]
    assert resolve_model(str(folders[10])) == folders[10]
    for source in (run.path, f"{run.path}/", run.checkpoints, run.checkpoints / "best"):
        assert resolve_model(str(source)) == folders[10]
    assert resolve_model("one@best") == resolve_model("one/checkpoints/best") == folders[10]
    with pytest.raises(RunError, match="no checkpoint latest; it has: 10, 20"):
        resolve_model(str(run.checkpoints / "latest"))
    run.set_pointer("latest", 20)
    assert resolve_model("one@latest") == resolve_model("one/checkpoints/latest") == folders[20]
    at = Path(shutil.copytree(run.path, tmp_path / "me@host" / "two"))
    assert resolve_model(str(at)) == at / "checkpoints" / "step-00000010"
    for source, sentence in {
        "one@30": "has no checkpoint 30; it has: 10, 20",
        "one@x": "has no checkpoint x",
        "one@²": "has no checkpoint ²",
        "nothing": "There is no run 'nothing'",
        str(tmp_path): "holds no config.json",
    }.items():
        with pytest.raises((RunError, UsageError), match=sentence):
            resolve_model(source)


def test_runs_need_no_keras():
    script = "import sys, kgpt.runs; print(any(m in sys.modules for m in ('keras', 'numpy')))"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout == "False\n"


def test_a_folder_that_is_no_run_is_not_listed(tmp_path):
    (tmp_path / "runs" / "empty").mkdir(parents=True)
    assert all_runs() == []
    assert not Run(tmp_path / "runs" / "empty").exists
