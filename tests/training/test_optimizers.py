"""What kgpt adds to Keras's optimizers: decay by path, the gradient's norm, averages."""

import keras
import numpy as np
import pytest
from keras import ops

from kgpt import GPT, AdamW, Lion, Muon, NextTokenLoss, TrainConfig
from kgpt.checkpoints.pretrained import path_below
from kgpt.training.optimizers import make_optimizer
from tests.tiny import tiny_model

pytestmark = pytest.mark.backend

KINDS = {"adamw": AdamW, "lion": Lion, "muon": Muon}


def small_model() -> GPT:
    return tiny_model(vocab_size=13, num_layers=1, num_heads=2, hidden_dim=8, max_length=8)


def values(model):
    return {path_below(v): v.numpy().copy() for v in model.trainable_variables}


def gradients(model, seed, size=1.0):
    noise = np.random.default_rng(seed)
    return [
        ops.array((size * noise.normal(size=v.shape)).astype("float32"))
        for v in model.trainable_variables
    ]


@pytest.mark.parametrize("kind", ["adamw", "lion"])
def test_only_matrices_decay_and_not_those_excluded(kind):
    """Without a gradient, decay is all there is: w becomes w (1 - rate * decay)."""
    model = small_model()
    for variable in model.trainable_variables:
        variable.assign(ops.ones(variable.shape))
    optimizer = KINDS[kind](0.1, weight_decay=0.5, no_decay=("embedding$", "mlp/"))
    optimizer.apply(
        [ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables
    )
    for path, value in values(model).items():
        decays = path in ("block_0/attention/qkv", "block_0/attention/output")
        np.testing.assert_allclose(value, 0.95 if decays else 1.0, rtol=1e-6, err_msg=path)


def test_every_matrix_of_a_gpt_decays_by_default():
    optimizer = make_optimizer(TrainConfig())
    for variable in small_model().trainable_variables:
        assert optimizer.decays(variable) == (len(variable.shape) == 2), variable.path


def test_clipping_and_the_norm_before_it():
    model = small_model()
    optimizer = AdamW(0.1, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    for size, is_clipped in ((1.0, True), (1e-3, False)):
        grads = gradients(model, 0, size)
        flat = np.concatenate([ops.convert_to_numpy(g).ravel() for g in grads])
        norm = np.linalg.norm(flat)
        clipped = optimizer._clip_gradients(grads)
        assert float(optimizer.gradient_norm) == pytest.approx(norm, rel=1e-5)
        ours = np.concatenate([ops.convert_to_numpy(g).ravel() for g in clipped])
        np.testing.assert_allclose(ours, flat / norm if is_clipped else flat, rtol=1e-5)


def test_a_norm_that_is_no_number_stays():
    """So it is found at the next row of metrics, whatever came after it."""
    model = small_model()
    optimizer = make_optimizer(TrainConfig())
    optimizer.build(model.trainable_variables)
    grads = gradients(model, 0)
    optimizer._clip_gradients([grads[0] * float("inf"), *grads[1:]])
    optimizer._clip_gradients(grads)
    assert not np.isfinite(float(optimizer.gradient_norm))


@pytest.mark.parametrize("accumulation", [None, 3])
def test_averages_equal_a_numpy_average(accumulation):
    """average = m average + (1 - m) weight once an update, beginning with the first weights."""
    model = small_model()
    optimizer = AdamW(
        0.05, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=accumulation
    )
    batches = accumulation or 1
    expected = None
    for step in range(5):
        for batch in range(batches):
            optimizer.apply(gradients(model, step * batches + batch), model.trainable_variables)
        now = values(model)
        if expected is None:
            expected = now
        else:
            expected = {path: 0.8 * expected[path] + 0.2 * now[path] for path in now}
    for variable, average in zip(model.trainable_variables, optimizer.ema_weights(), strict=True):
        path = path_below(variable)
        np.testing.assert_allclose(average.numpy(), expected[path], rtol=2e-5, atol=1e-6)


def test_accumulated_batches_are_one_large_batch():
    """Three batches of two, clipped and decayed once, move the weights as one batch of six."""
    ids = np.random.default_rng(0).integers(0, 13, (6, 8)).astype("int32")
    after = []
    for accumulation in (1, 3):
        model = small_model()
        config = TrainConfig(grad_accumulation=accumulation, max_grad_norm=0.5, learning_rate=0.01)
        model.compile(optimizer=make_optimizer(config), loss=NextTokenLoss())
        model.fit(ids, ids, batch_size=6 // accumulation, epochs=2, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations) == 2
        after.append(values(model))
    for path, value in after[0].items():
        np.testing.assert_allclose(after[1][path], value, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("off", [0, None])
def test_a_gradient_norm_of_0_or_null_does_not_clip(off):
    optimizer = make_optimizer(TrainConfig(max_grad_norm=off))
    assert optimizer.global_clipnorm is None


@pytest.mark.parametrize("kind", list(KINDS))
def test_training_lowers_the_loss(kind):
    tokens = (np.arange(16)[:, None] + np.arange(9)) % 13
    x, y = tokens[:, :-1].astype("int32"), tokens[:, 1:].astype("int32")
    model = small_model()
    rate = {"adamw": 0.02, "lion": 0.005, "muon": 0.02}[kind]
    optimizer = make_optimizer(TrainConfig(optimizer=kind, learning_rate=rate, weight_decay=0.01))
    model.compile(optimizer=optimizer, loss=NextTokenLoss())
    losses = model.fit(x, y, batch_size=16, epochs=25, verbose=0).history["loss"]
    assert losses[-1] < 0.75 * losses[0]
    assert float(optimizer.gradient_norm) > 0


@pytest.mark.parametrize("kind", list(KINDS))
def test_configuration_round_trip(kind):
    optimizer = KINDS[kind](0.1, weight_decay=0.3, no_decay=("a", "b"), global_clipnorm=2.0)
    stored = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(stored)
    assert again.get_config() == optimizer.get_config()
    assert again.no_decay == ("a", "b")
