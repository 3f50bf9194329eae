"""`kgpt train` as a process: signals save, resumption goes on, a full disk is said so."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.runs import Run
from kgpt.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.backend, pytest.mark.portable]

TINY = """
model: {num_layers: 1, num_heads: 2, hidden_dim: 16, max_length: 16}
train: {max_steps: 1000000, batch_size: 2, log_every: 1, eval_every: 0, sample_every: 0,
        checkpoint_every: 0}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a data set and a configuration, in which commands run."""
    (tmp_path / "a.txt").write_text("It was Monday. Anna went to the park.\n" * 50)
    prepare(Corpus([str(tmp_path / "a.txt")]), Tokenizer.of_bytes(), tmp_path / "set")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments):
    command = [sys.executable, "-m", "kgpt", "train", *arguments, "--run", "one"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, run, step):
    deadline = time.monotonic() + 300
    while run.status().step < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_signals_save_and_exit_with_130_and_resuming_goes_on(folder):
    run = Run(folder / "runs" / "one")
    process = start("tiny.yaml", "--data", "set")
    wait_for_step(process, run, 3)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 130, (out, error)
    assert "Traceback" not in error
    stopped = run.status().step
    assert run.status().state == "stopped"
    assert run.checkpoint_steps() == [stopped]
    process = start("--resume")
    wait_for_step(process, run, stopped + 2)
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 130, (out, error)
    steps = [row["step"] for row in run.metrics()]
    assert steps == list(range(1, len(steps) + 1))
    assert run.checkpoint_steps()[-1] == run.status().step > stopped + 1
    process = start("--train.max-steps", str(run.status().step + 1), "--resume")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "train.max_steps 1000000 → " in out
    assert run.status().state == "finished"


def test_a_limit_on_file_size_ends_training_with_one_sentence(folder):
    """The system refuses the checkpoint: no traceback, and nothing that looks like one."""
    command = (
        f"ulimit -f 8; exec {sys.executable} -m kgpt train tiny.yaml --data set --run one "
        "--train.max-steps 2"
    )
    process = subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, check=False, timeout=300,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    assert "the limit on file sizes is reached" in process.stderr
    run = Run(folder / "runs" / "one")
    assert run.status().state == "failed"
    assert run.checkpoint_steps() == []
