"""The memory of `kgpt plan` is within 15% of the buffers that XLA assigns to a training step."""

import keras
import pytest

from benchmarks.plan import PRESETS, xla_buffers
from kgpt.config import Config
from kgpt.lab.plan import make_plan
from kgpt.lab.this_machine import this_machine

pytestmark = [
    pytest.mark.backend,
    pytest.mark.proof,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="asks JAX's compiler"),
]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_the_memory_that_was_planned(preset):
    config = Config.load(preset, {"model.vocab_size": PRESETS[preset]})
    planned = make_plan(config, this_machine("float32")).best.memory.peak
    assert planned == pytest.approx(xla_buffers(config), rel=0.15)
