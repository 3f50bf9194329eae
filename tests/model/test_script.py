"""A script of the user's own: `compile`, `fit`, `evaluate`, with Keras's stock parts."""

import keras
import numpy as np
import pytest

from kgpt import GPT, ModelConfig, NextTokenLoss, UsageError
from tests.model.models import KINDS, SMALL

ONE_LAYER = {**SMALL, "num_layers": 1}
pytestmark = pytest.mark.backend


def alphabet():
    """Sequences that count: each next token is the one before plus one."""
    starts = np.arange(64)[:, None] % 37
    tokens = (starts + np.arange(13)) % 37
    return tokens[:, :-1].astype("int32"), tokens[:, 1:].astype("int32")


def test_stock_loss_metrics_and_optimizer():
    x, y = alphabet()
    model = GPT(ModelConfig(**ONE_LAYER, dropout=0.1))
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["sparse_categorical_accuracy"],
    )
    history = model.fit(x, y, batch_size=16, epochs=8, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["sparse_categorical_accuracy"][-1] > 0.8
    loss, accuracy = model.evaluate(x, y, batch_size=16, verbose=0)
    assert accuracy > 0.9 and loss < history["loss"][0]
    assert model.predict(x[:3], verbose=0).shape == (3, 12, 37)


def test_our_loss_reports_what_the_stock_loss_reports():
    x, y = alphabet()
    weights = (np.random.default_rng(0).random(x.shape) < 0.6).astype("float32")
    model = GPT(ModelConfig(**ONE_LAYER), seed=2)
    model.compile(loss=NextTokenLoss(chunk=50))
    ours = model.evaluate(x, y, sample_weight=weights, batch_size=24, verbose=0)
    logits = keras.ops.convert_to_numpy(model(x)).astype("float64")
    logsumexp = np.log(np.exp(logits).sum(-1))
    losses = logsumexp - np.take_along_axis(logits, y[..., None], -1)[..., 0]
    assert ours == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-5)


@pytest.mark.portable
def test_our_loss_with_a_metric_of_keras():
    """A metric needs logits, so the loss is computed from them, and is the same."""
    x, y = alphabet()
    losses = []
    for metrics in (None, ["sparse_categorical_accuracy"]):
        model = GPT(ModelConfig(**ONE_LAYER), seed=2)
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss=NextTokenLoss(), metrics=metrics)
        model.fit(x, y, batch_size=64, epochs=2, verbose=0)
        losses.append(model.evaluate(x, y, batch_size=64, verbose=0, return_dict=True)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eager_training_is_compiled_training(kind):
    x, y = alphabet()
    losses = []
    for eager in (False, True):
        model = GPT(ModelConfig(**KINDS[kind]), seed=3)
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss=NextTokenLoss(), run_eagerly=eager)
        losses.append(model.fit(x, y, batch_size=64, epochs=2, verbose=0).history["loss"])
        losses[-1].append(model.evaluate(x, y, batch_size=64, verbose=0))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_eager_recomputation_of_activations():
    x, y = alphabet()
    losses = []
    for recompute in (False, True):
        model = GPT(ModelConfig(**ONE_LAYER), seed=3, gradient_checkpointing=recompute)
        model.compile(optimizer=keras.optimizers.SGD(0.5), loss=NextTokenLoss(), run_eagerly=True)
        losses.append(model.fit(x, y, batch_size=64, epochs=2, verbose=0).history["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_export_of_keras_works_or_says_what_does(tmp_path):
    x, _ = alphabet()
    model = GPT(ModelConfig(**ONE_LAYER))
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(UsageError, match="kgpt export --model DIR --format savedmodel"):
            model.export(tmp_path / "model", verbose=False)
        return
    import tensorflow as tf

    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(tf.constant(x[:3, :5])), model(x[:3, :5]), atol=1e-5)
