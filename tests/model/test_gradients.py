"""Gradients: against finite differences, and unchanged by gradient checkpointing."""

import keras
import numpy as np
import pytest

from kgpt import GPT, ModelConfig, NextTokenLoss
from kgpt.checkpoints.pretrained import path_below
from tests.model.models import LLAMA, SMALL

pytestmark = pytest.mark.backend


def gradients_by_training(model, ids, targets, steps=1, weights=None):
    """What `fit` moves each weight by, at a learning rate of 1: the gradient itself."""
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=NextTokenLoss())
    before = {path_below(v): v.numpy().copy() for v in model.trainable_variables}
    history = model.fit(
        ids, targets, sample_weight=weights, batch_size=len(targets), epochs=steps, shuffle=False,
        verbose=0,
    )  # fmt: skip
    after = {path_below(v): v.numpy() for v in model.trainable_variables}
    return {path: before[path] - after[path] for path in before}, history.history["loss"]


@pytest.mark.parametrize("shape", [SMALL, LLAMA], ids=["gpt2", "llama"])
def test_checkpointing_changes_no_gradient(shape):
    """With dropout on: the masks drawn again in the backward pass are the same ones."""
    config = ModelConfig(**{**shape, "dropout": 0.25, "num_layers": 1})
    ids = np.random.default_rng(2).integers(0, 37, (4, 12)).astype("int32")
    plain, recomputed = (
        gradients_by_training(GPT(config, seed=4, gradient_checkpointing=on), ids, ids, steps=2)
        for on in (False, True)
    )
    np.testing.assert_allclose(plain[1], recomputed[1], rtol=1e-5)
    for path, gradient in plain[0].items():
        np.testing.assert_allclose(recomputed[0][path], gradient, atol=1e-6, err_msg=path)
        assert np.abs(gradient).max() > 1e-6 or path.endswith("bias"), path


@pytest.mark.parametrize("shape", [SMALL, LLAMA], ids=["gpt2", "llama"])
def test_gradients_equal_finite_differences(shape):
    """Along the gradient itself the loss must change by its squared length."""
    ids = np.random.default_rng(3).integers(0, 37, (4, 12)).astype("int32")
    config = ModelConfig(**{**shape, "initializer_range": 0.2})
    slopes, _ = gradients_by_training(GPT(config, seed=4), ids, ids)
    for path, slope in slopes.items():
        length = np.linalg.norm(slope)
        if length < 1e-4:
            continue
        shifted = []
        step = 2e-2 / max(1.0, length)
        for sign in (1, -1):
            model = FRESH.setdefault(str(config), GPT(config, seed=4))
            model.compile(loss=NextTokenLoss())
            variable = next(v for v in model.trainable_variables if path_below(v) == path)
            original = variable.numpy().copy()
            variable.assign(original + sign * step * slope / length)
            shifted.append(loss_of(model, ids))
            variable.assign(original)
        measured = (shifted[0] - shifted[1]) / (2 * step)
        assert measured == pytest.approx(length, rel=0.03), path


FRESH: dict[str, GPT] = {}


def loss_of(model, ids):
    logits = keras.ops.convert_to_numpy(model(ids)).astype("float64")
    top = logits.max(axis=-1, keepdims=True)
    logsumexp = np.log(np.exp(logits - top).sum(axis=-1)) + top[..., 0]
    chosen = np.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
    return (logsumexp - chosen).mean()
