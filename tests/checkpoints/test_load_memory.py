"""Loading a model takes little more memory than the model."""

import math
import subprocess
import sys

import numpy as np
import pytest

from kgpt.checkpoints.pretrained import write_config
from kgpt.checkpoints.weights import write_weights
from kgpt.config import ModelConfig
from kgpt.config.parameters import parameter_shapes

pytestmark = [pytest.mark.backend, pytest.mark.proof]

GPT2 = {"vocab_size": 50257, "max_length": 1024, "num_layers": 12, "num_heads": 12,
        "hidden_dim": 768}  # fmt: skip
SMOLLM2 = {"vocab_size": 49152, "max_length": 8192, "num_layers": 30, "num_heads": 9,
           "num_kv_heads": 3, "hidden_dim": 576, "intermediate_dim": 1536, "position": "rotary",
           "norm": "rms", "activation": "swiglu", "bias": False}  # fmt: skip
LOAD = """
import sys
from pathlib import Path
import keras
from kgpt.checkpoints.pretrained import load_model
import kgpt.model.gpt

def megabytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024

keras.ops.zeros(2) + 1
before = megabytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
model = load_model(Path(sys.argv[1]))
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("values", [GPT2, SMOLLM2], ids=["gpt2", "smollm2"])
def test_the_peak_is_at_most_a_third_above_the_model(values, tmp_path):
    config = ModelConfig(**values)
    shapes = dict(parameter_shapes(config))
    rng = np.random.default_rng(0)
    write_config(tmp_path, config)
    write_weights(tmp_path, config, lambda path: rng.random(shapes[path], "float32"))
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True, check=True
    )
    size = 4 * sum(math.prod(shape) for shape in shapes.values())
    assert int(done.stdout.split()[-1]) <= 1.3 * size
