"""Bottleneck adapters: against NumPy, in training, on int8 weights, in decoding."""

import keras
import numpy as np
import pytest

import kgpt
from kgpt.checkpoints.adapter_layout import adapter_variables
from kgpt.model.adapters import linears_by_path
from tests.model.models import KINDS, dequantized, quantized_model
from tests.model.test_gradients import gradients_by_training
from tests.tiny import tiny_model

pytestmark = pytest.mark.backend


def randomized(model):
    rng = np.random.default_rng(5)
    for variable in adapter_variables(model).values():
        variable.assign(rng.normal(0, 0.3, variable.shape).astype("float32"))
    return model


@pytest.mark.parametrize(
    ("kind", "placement", "activation"),
    [("gpt2", "houlsby", "tanh"), ("llama", "pfeiffer", "relu")],
)
def test_an_adapter_is_a_small_mlp_on_the_output_of_its_product(kind, placement, activation, ids):
    """New, it changes nothing."""
    model = tiny_model(seed=3, noise=0.3, **KINDS[kind])
    before = keras.ops.convert_to_numpy(model(ids))
    kgpt.add_bottleneck(model, 3, placement, activation, scaling=0.5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(ids)), before, atol=1e-5)
    randomized(model)
    linears = linears_by_path(model)
    adapted = {path.partition("/")[2] for path, x in linears.items() if x.adapter is not None}
    assert adapted == {"mlp/down"} | ({"attention/output"} if placement == "houlsby" else set())
    linear = linears["block_1/mlp/down"]
    x = np.random.default_rng(0).normal(size=(4, linear.shape[0])).astype("float32")
    x = keras.ops.convert_to_tensor(x)
    adapter, linear.adapter = linear.adapter, None
    h = keras.ops.convert_to_numpy(linear(x))
    linear.adapter = adapter
    narrow = h @ adapter.down.numpy()
    narrow = np.tanh(narrow) if activation == "tanh" else np.maximum(narrow, 0)
    expected = h + 0.5 * narrow @ adapter.up.numpy()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(linear(x)), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", pytest.param("llama", marks=pytest.mark.portable)])
def test_int8_weights_train_adapters_as_their_float_values_do(kind, ids):
    """With dropout and recomputed blocks; no weight but the adapters' moves."""
    model = quantized_model(kind, gradient_checkpointing=True)
    twin = dequantized(model)
    found = []
    for each in (model, twin):
        kgpt.add_bottleneck(each, 3, activation="silu", dropout=0.3)
        found.append(gradients_by_training(randomized(each), ids, ids)[0])
        assert set(found[-1]) == set(adapter_variables(each))
    for path, gradient in found[1].items():
        np.testing.assert_allclose(found[0][path], gradient, atol=2e-5, err_msg=path)
        assert np.abs(gradient).max() > 1e-5


@pytest.mark.portable
def test_text_is_generated_with_adapters():
    model = tiny_model(seed=3, noise=0.3, **KINDS["llama"])
    kgpt.add_bottleneck(model, 3)
    whole = randomized(model).generate([3, 1, 4], max_tokens=6, temperature=0)
    logits = keras.ops.convert_to_numpy(model(np.array([whole[:-1]], "int32")))[0]
    assert logits.argmax(axis=-1)[2:].tolist() == whole[3:]


def test_a_keras_file_keeps_adapters(tmp_path, ids):
    model = tiny_model(seed=3, **KINDS["gpt2"])
    kgpt.add_bottleneck(model, 3, dropout=0.1)
    randomized(model).save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.adapter_config == model.adapter_config
    np.testing.assert_array_equal(
        *(keras.ops.convert_to_numpy(each(ids)) for each in (model, again))
    )
