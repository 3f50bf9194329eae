"""A trained model generates the same text on every backend."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.children import BACKENDS, finish
from tests.training.tiny_runs import make_config

pytestmark = pytest.mark.proof

SHAPE = {
    "num_layers": 2, "num_heads": 4, "hidden_dim": 64, "max_length": 128, "position": "rotary",
    "norm": "rms", "activation": "swiglu", "bias": False,
}  # fmt: skip


@pytest.mark.parametrize("trained_on", BACKENDS)
def test_greedy_and_seeded_text_is_the_same_on_every_backend(data, tmp_path, trained_on):
    config = make_config(
        data, model=SHAPE, train={"max_steps": 150, "batch_size": 16, "checkpoint_every": 0}
    )
    run = finish(tmp_path, config, "run", trained_on)
    for sampling in (("--temperature", "0"), ("--temperature", "0.8", "--seed", "3")):
        texts = {backend: written(run.path, backend, *sampling) for backend in BACKENDS}
        assert len(texts["torch"]) == 3 and all(len(text) > 90 for text in texts["torch"])
        assert texts["tensorflow"] == texts["jax"] == texts["torch"]


def written(model, backend, *sampling):
    """Three texts of 100 tokens."""
    command = [sys.executable, "-m", "kgpt", "generate", "--model", str(model), "--json"]
    command += ["--prompt", "one two", "--num-samples", "3", "--max-tokens", "100", *sampling]
    environment = os.environ | {"KERAS_BACKEND": backend}
    environment.pop("KGPT_RESTARTED", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]
