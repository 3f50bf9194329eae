"""`kgpt replay` gives the texts of one backend on the others."""

import os
import subprocess
import sys

import pytest

from tests.tiny import write_tiny_model
from tests.training.children import BACKENDS

pytestmark = pytest.mark.proof
NUM_ANSWERS = 100


def kgpt(backend, *words):
    environment = os.environ | {"KERAS_BACKEND": backend}
    environment.pop("KGPT_RESTARTED", None)
    command = [sys.executable, "-m", "kgpt", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("written_by", BACKENDS)
def test_seeded_answers_replay_on_every_backend(tmp_path, written_by):
    model = write_tiny_model(tmp_path / "model", noise=0.3, max_length=128)
    receipts = tmp_path / "receipts.jsonl"
    done = kgpt(
        written_by, "generate", "--model", model, "--prompt", "one two", "--json", "--seed", 7,
        "--num-samples", NUM_ANSWERS, "--max-tokens", 40, "--temperature", 0.9, "--top-p", 0.95,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    receipts.write_text(done.stdout, encoding="utf-8")
    assert len(done.stdout.splitlines()) == NUM_ANSWERS
    for backend in BACKENDS:
        again = kgpt(backend, "replay", receipts, "--max-num-seqs", 3 if backend == "torch" else 8)
        assert again.returncode == 0, again.stderr
        assert f"All {NUM_ANSWERS} texts are the same" in again.stderr
        assert ("the backend (" in again.stderr) == (backend != written_by)
