"""`train.compile`: which part of a step is compiled, on each backend."""

import numpy as np
import pytest

from kgpt import backend
from kgpt.config import Config
from kgpt.training.pretraining import build_model
from tests.model.models import SMALL

pytestmark = pytest.mark.backend


def model_with(mode):
    config = {"model": {**SMALL, "num_layers": 1}, "train": {"compile": mode}}
    return build_model(Config.model_validate(config))


@pytest.mark.parametrize("mode", ["auto", "on", "off"])
def test_what_is_compiled(mode):
    """XLA compiles the whole step; torch.compile the blocks and the loss, by default on a GPU."""
    model = model_with(mode)
    regions = (model.blocks[0].compiled_transform, model.loss.functions)
    if backend.name == "torch":
        on_gpu = backend.device()[0] == "gpu"
        assert not model.jit_compile
        assert all(
            bool(region) == (mode == "on" or (mode == "auto" and on_gpu)) for region in regions
        )
    else:
        assert model.jit_compile == (mode != "off")
        assert not any(regions)


def test_a_step_without_compilation_is_the_same():
    ids = np.random.default_rng(0).integers(0, 37, (2, 9)).astype("int32")
    losses = []
    for mode in ("auto", "off"):
        history = model_with(mode).fit(ids[:, :-1], ids[:, 1:], epochs=2, verbose=0).history
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-4)
