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


@pytest.fixture(scope="module")
def receipts(tmp_path_factory):
    """A file with the receipts of the same seeds on each backend."""
    folder = tmp_path_factory.mktemp("replay")
    model = write_tiny_model(folder / "model", noise=0.3, max_length=128)
    lines = []
    for backend in BACKENDS:
        done = kgpt(
            backend, "generate", "--model", model, "--prompt", "one two", "--json", "--seed", 7,
            "--num-samples", NUM_ANSWERS, "--max-tokens", 40, "--temperature", 0.9, "--top-p", 0.95,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == NUM_ANSWERS
        lines.append(done.stdout)
    file = folder / "receipts.jsonl"
    file.write_text("".join(lines), encoding="utf-8")
    return file


@pytest.mark.parametrize("backend", BACKENDS)
def test_seeded_answers_of_every_backend_replay(receipts, backend):
    again = kgpt(backend, "replay", receipts, "--max-num-seqs", 3 if backend == "torch" else 8)
    assert again.returncode == 0, again.stderr
    assert f"All {NUM_ANSWERS * len(BACKENDS)} texts are the same" in again.stderr
    for other in BACKENDS:
        assert (f"the backend ({other}, now {backend})" in again.stderr) == (other != backend)
