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

WRITE = """
import json, sys
import kgpt
with kgpt.load(sys.argv[1]) as model:
    texts = [
        completion.text
        for options in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 3})
        for completion in model.generate_batch(["one two"] * 3, max_tokens=100, **options)
    ]
print(json.dumps(texts))
"""


@pytest.mark.parametrize("trained_on", BACKENDS)
def test_greedy_and_seeded_text_is_the_same_on_every_backend(data, tmp_path, trained_on):
    config = make_config(
        data, model=SHAPE, train={"max_steps": 150, "batch_size": 16, "checkpoint_every": 0}
    )
    run = finish(tmp_path, config, "run", trained_on)
    texts = {backend: written(run.path, backend) for backend in BACKENDS}
    assert len(texts["torch"]) == 6 and all(len(text) > 90 for text in texts["torch"])
    assert texts["tensorflow"] == texts["jax"] == texts["torch"]


def written(model, backend):
    """Three greedy texts of 100 tokens and three sampled ones, by a process of its own."""
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", WRITE, str(model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
