"""The launcher: ranks before lines, one failure stops all, Ctrl-C is passed on once."""

import os
import signal
import stat
import threading
import time

import pytest

from kgpt.errors import UsageError
from kgpt.launch import commands as commands_module
from kgpt.launch import launcher
from kgpt.launch.commands import Command, group_commands
from kgpt.launch.launchers import KERAS
from kgpt.launch.process_group import find_process_group

SAVE_AND_STOP = 'trap "echo saved; exit 130" INT TERM; echo ready; while :; do sleep 0.05; done'


def shell(*scripts):
    return [Command(i, None, ["sh", "-c", text], os.environ) for i, text in enumerate(scripts)]


def run(commands):
    lines = []
    try:
        return launcher.launch(commands, lines.append), sorted(lines)
    except launcher.ProcessFailed as error:
        return error, lines


def interrupt_when_ready(lines, count, size=2):
    """Send SIGINT to this process when `size` processes are ready, `count` times."""

    def work():
        deadline = time.monotonic() + 20
        while sum("ready" in line for line in lines) < size and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(count):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)

    threading.Thread(target=work, daemon=True).start()


def test_lines_have_the_rank_of_their_process():
    assert run(shell("echo a", "echo b >&2")) == (0, ["[0] a", "[1] b"])


def test_a_killed_process_stops_all_and_is_named_with_its_last_lines(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher, "STOP_TIMEOUT_S", 2)
    begun = tmp_path / "begun"
    wait = f"while ! test -e {begun}; do sleep 0.01; done"
    killed = f"{wait}; echo step 7; kill -KILL $$"
    error, lines = run(shell(f"echo $$; touch {begun}; sleep 60", killed, f"{wait}; exit 1"))
    assert str(error) == (
        "Process 1 ended by SIGKILL, and the others were stopped; a run goes on with --resume."
    )
    assert error.exit_code == 1
    assert lines[-2:] == ["The last lines of process 1:", "  step 7"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(next(line for line in lines if line.startswith("[0] "))[4:]), 0)


def test_the_exit_code_of_a_wrong_command_is_passed_on():
    error, _ = run(shell("echo wrong; exit 2", "exit 2"))
    assert error.exit_code == 2
    assert "Process 0 ended with exit code 2" in str(error)


@pytest.mark.parametrize("nodes", [[], ["node1", "node2"]])
def test_ctrl_c_saves_and_stops_every_process(nodes, tmp_path, monkeypatch):
    fake_ssh(tmp_path, monkeypatch)
    monkeypatch.setattr(commands_module.sys, "executable", fake_python(tmp_path, SAVE_AND_STOP))
    lines = []
    interrupt_when_ready(lines, count=1)
    commands = group_commands(["train"], 1 if nodes else 2, nodes)
    assert launcher.launch(commands, lines.append) == 130
    assert sorted(lines)[-2:] == ["[1] ready", "[1] saved"]


def test_a_third_ctrl_c_kills():
    lines = []
    interrupt_when_ready(lines, count=3, size=1)
    launcher.launch(shell('trap "" INT; echo ready; while :; do sleep 0.05; done'), lines.append)
    assert lines == ["[0] ready"]


@pytest.mark.parametrize("nodes", [[], ["node1", "me@node2"]])
def test_every_process_finds_the_group_it_was_started_for(nodes, tmp_path, monkeypatch):
    fake_ssh(tmp_path, monkeypatch)
    print_environ = 'echo "$(pwd) $*"; ' + "; ".join(f'echo "{k}=${k}"' for k in KERAS)
    monkeypatch.setattr(commands_module.sys, "executable", fake_python(tmp_path, print_environ))
    monkeypatch.chdir(tmp_path)
    code, lines = run(group_commands(["train", "a b"], 2, nodes, port=1234))
    size = 2 * max(1, len(nodes))
    host = "node1" if nodes else "127.0.0.1"
    assert code == 0
    for rank in range(size):
        mine = [line.partition("] ")[2] for line in lines if line.startswith(f"[{rank}]")]
        group = find_process_group(environ=dict(line.split("=") for line in mine if "=" in line))
        assert (group.coordinator, group.num_processes, group.process_id) == (
            f"{host}:1234",
            size,
            rank,
        )
        assert f"{tmp_path} -m kgpt train a b" in mine


def fake_python(folder, script):
    """A program in place of Python, which a process of the group runs."""
    return _executable(folder / "python", script)


def fake_ssh(folder, monkeypatch):
    """An `ssh` that runs the command here."""
    _executable(folder / "ssh", 'for last; do :; done; exec sh -c "$last"')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _executable(file, script):
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


@pytest.mark.parametrize("options", [(0, ()), (1, ["a b"]), (1, ["-oProxyCommand=x"]), (1, [""])])
def test_impossible_numbers_and_names_are_refused(options):
    with pytest.raises(UsageError):
        group_commands(["train"], *options)
