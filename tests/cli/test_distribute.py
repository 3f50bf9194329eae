"""`kgpt train --distribute.*`: what cannot be distributed is refused before the run begins."""

import os
from pathlib import Path

import pytest

from tests.cli.running import kgpt

pytestmark = pytest.mark.backend
ON = {
    "jax": "takes 2 devices, but JAX has 1; lower them, or on a CPU set XLA_FLAGS=",
    "tensorflow": "On tensorflow kgpt trains on one device; set KERAS_BACKEND=jax",
    "torch": "On torch kgpt trains on one device; set KERAS_BACKEND=jax",
}


@pytest.mark.parametrize(
    ("batch_size", "sentence"),
    [
        (3, "train.batch_size 3 cannot be divided among 2 devices"),
        (4, ON[os.environ["KERAS_BACKEND"]]),
    ],
)
def test_a_mesh_that_cannot_be_is_a_wrong_command(capsys, data, batch_size, sentence):
    options = ("--distribute.data", 2, "--train.batch-size", batch_size)
    code, _, error = kgpt(capsys, "train", "llama-tiny", "--data", data, "--run", "one", *options)
    assert code == 2
    assert sentence in " ".join(error.split())
    assert not Path(os.environ["KGPT_RUNS"], "one").exists()
