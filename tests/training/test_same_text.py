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
texts = []
for folder in sys.argv[1:]:
    with kgpt.load(folder) as model:
        texts.append([
            completion.text
            for options in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 3})
            for completion in model.generate_batch(["one two"] * 3, max_tokens=100, **options)
        ])
print(json.dumps(texts))
"""


def test_greedy_and_seeded_text_is_the_same_on_every_backend(data, tmp_path):
    """Of models that each of the backends trained."""
    config = make_config(
        data, model=SHAPE, train={"max_steps": 150, "batch_size": 16, "checkpoint_every": 0}
    )
    runs = [finish(tmp_path, config, f"run-{backend}", backend).path for backend in BACKENDS]
    texts = {backend: written(runs, backend) for backend in BACKENDS}
    for of_run in texts["torch"]:
        assert len(of_run) == 6 and all(len(text) > 90 for text in of_run)
    assert texts["tensorflow"] == texts["jax"] == texts["torch"]


def written(models, backend):
    """Of each model three greedy texts of 100 tokens and three sampled ones, by one process."""
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", WRITE, *map(str, models)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
