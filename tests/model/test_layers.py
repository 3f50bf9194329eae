"""Parts of the model against their formulas, in float32 and below it."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kgpt import GPT, ModelConfig, backend
from kgpt.model.attention import CausalSelfAttention, rotary_frequencies, rotate
from kgpt.model.block import MLP, Block
from kgpt.model.initializers import Normal
from kgpt.model.layers import Dropout, LayerNorm, RMSNorm, sinusoids
from tests.model import reference
from tests.model.models import LLAMA, SMALL

pytestmark = pytest.mark.backend


@given(length=st.integers(1, 40), width=st.integers(1, 33))
@settings(max_examples=20)
def test_sinusoids_are_the_papers(length, width):
    np.testing.assert_allclose(
        sinusoids(length, width), reference.sinusoids(length, width), atol=1e-5
    )


def test_rotation_is_the_papers_and_turns_only():
    x = np.random.default_rng(0).normal(size=(1, 30, 2, 8)).astype("float32")
    turned = ops.convert_to_numpy(rotate(x, np.arange(30), rotary_frequencies(8, 500.0)))
    for head in range(2):
        expected = reference.rotated(x[0, :, head].astype("float64"), 500.0)
        np.testing.assert_allclose(turned[0, :, head], expected, atol=1e-5)
    lengths = [np.linalg.norm(t, axis=-1) for t in (x, turned)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)


def test_rotary_products_depend_on_distance_alone():
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 16)).astype("float32")
    frequencies = rotary_frequencies(16, 10000.0)

    def product(i, j):
        a, b = (rotate(x, np.array([p]), frequencies) for x, p in ((q, i), (k, j)))
        return float(ops.sum(a * b))

    assert product(7, 3) == pytest.approx(product(1004, 1000), rel=1e-3)
    assert product(7, 3) != pytest.approx(product(8, 3), rel=1e-3)


def test_positions_of_each_row_may_differ():
    x = np.random.default_rng(1).normal(size=(2, 3, 1, 4)).astype("float32")
    frequencies = rotary_frequencies(4, 100.0)
    positions = np.array([[0, 1, 2], [5, 6, 7]])
    both = ops.convert_to_numpy(rotate(x, positions, frequencies))
    for row in range(2):
        alone = ops.convert_to_numpy(rotate(x[row : row + 1], positions[row], frequencies))
        np.testing.assert_allclose(both[row : row + 1], alone, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_norms_compute_in_float32(dtype):
    """Numbers whose squares overflow float16 and drown in bfloat16 come out right."""
    x = np.random.default_rng(2).normal(1000, 300, (5, 64)).astype("float32")
    x = ops.convert_to_numpy(ops.cast(ops.cast(x, dtype), "float32"))
    scale = np.linspace(0.5, 2, 64).astype("float32")
    tolerance = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 4e-3}[dtype]
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale
    y = backend.layer_norm(ops.cast(x, dtype), ops.convert_to_tensor(scale), None, 1e-5)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(y, "float32")), expected, atol=tolerance, rtol=tolerance
    )
    y = backend.rms_norm(ops.cast(x, dtype), ops.convert_to_tensor(scale), 1e-5)
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(y, "float32")),
        reference.rms_norm(x, scale, 1e-5),
        atol=tolerance,
        rtol=tolerance,
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_computes_low_and_keeps_weights_high(precision):
    low = GPT(ModelConfig(**SMALL), seed=1, dtype=f"mixed_{precision}")
    high = GPT(ModelConfig(**SMALL), seed=1)
    ids = np.arange(20, dtype="int32")[None]
    assert {keras.backend.standardize_dtype(v.dtype) for v in low.trainable_variables} == {
        "float32"
    }
    hidden = low.hidden_states(ids)
    assert keras.backend.standardize_dtype(low.blocks[0].compute_dtype) == precision
    logits = low(ids)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    logits, expected = (ops.convert_to_numpy(x) for x in (logits, high(ids)))
    difference = np.abs(logits - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max() + 0.01
    assert np.isfinite(ops.convert_to_numpy(ops.cast(hidden, "float32"))).all()


def test_products_run_in_the_low_precision():
    """The queries, keys and values themselves, not only what the layer returns."""
    model = GPT(ModelConfig(**LLAMA), dtype="mixed_bfloat16")
    for tensor in _projected(model, ops.ones((1, 4, 32), "bfloat16")):
        assert keras.backend.standardize_dtype(tensor.dtype) == "bfloat16"


def _projected(model, x):
    """What the first attention layer projects x to when it is called."""
    seen = []
    attention = model.blocks[0].attention
    original = attention.project

    def watch(*args):
        seen.extend(original(*args))
        return seen

    attention.project = watch
    attention(x)
    return seen


LAYERS = [
    CausalSelfAttention(
        4, 2, 8, rope_theta=10.0, use_qkv_bias=False, use_qk_norm=True, window=3, dropout=0.1,
        epsilon=1e-3, kernel_initializer=Normal(0.5, 1), name="x",
    ),
    MLP(7, "swiglu", False, Normal(0.1, 2), name="x"),
    LayerNorm(1e-3, False, name="x"),
    RMSNorm(1e-3, name="x"),
    Dropout(0.4, name="x"),
    Block(ModelConfig(**LLAMA), Normal(0.3, 4), remat=True, name="x"),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_every_argument_comes_back_from_the_config(layer):
    """Saved and loaded as Keras does, the layer has the same config and the same weights."""
    stored = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(stored)
    assert again.get_config() == layer.get_config()
    shape = (None, None, 32)
    layer.build(shape)
    again.build(shape)
    assert [v.path for v in again.weights] == [v.path for v in layer.weights]
    for ours, theirs in zip(layer.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("kind", ["gelu", "gelu_tanh", "swiglu"])
def test_activations(kind):
    hidden = np.random.default_rng(0).normal(0, 3, (1, 3, 10)).astype("float32")
    layer = MLP(5 if kind == "swiglu" else 10, kind)
    ours = ops.convert_to_numpy(layer.activate(ops.convert_to_tensor(hidden)))
    identity = {"mlp/up": np.eye(10), "mlp/down": np.eye(ours.shape[-1])}
    config = ModelConfig(vocab_size=2, activation=kind)
    expected = reference.feed_forward(config, identity, hidden[0].astype("float64"))
    np.testing.assert_allclose(ours[0], expected, atol=1e-5)
