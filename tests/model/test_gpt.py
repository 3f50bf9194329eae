"""The model computes what the papers say, looks only backwards, and has the size it claims."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgpt import GPT, ModelConfig
from kgpt.checkpoints.pretrained import path_below
from kgpt.config.parameters import parameter_shapes
from kgpt.errors import UsageError
from tests.model import reference
from tests.model.models import KINDS, LLAMA, SMALL, model_of

pytestmark = pytest.mark.backend


def run(model, ids):
    return keras.ops.convert_to_numpy(model(ids))


def test_logits_equal_plain_numpy(kind, ids):
    model = model_of(kind)
    weights = reference.weights_of(model)
    expected = [reference.logits(model.config, weights, row) for row in ids]
    np.testing.assert_allclose(run(model, ids), expected, atol=1e-4, rtol=1e-4)


def test_long_sequences_are_attended_in_chunks_without_a_seam():
    """256 tokens are two chunks of queries; the window reaches across the border."""
    shape = {**SMALL, "num_layers": 1, "max_length": 256}
    for config in (ModelConfig(**shape), ModelConfig(**shape, sliding_window=100)):
        model = GPT(config, seed=5)
        ids = np.random.default_rng(1).integers(0, 37, (1, 256))
        expected = reference.logits(config, reference.weights_of(model), ids[0])
        np.testing.assert_allclose(run(model, ids)[0], expected, atol=1e-4)


@given(place=st.integers(1, 23), token=st.integers(0, 36), kind=st.sampled_from(sorted(KINDS)))
@settings(max_examples=25)
def test_a_later_token_never_changes_an_earlier_logit(place, token, kind):
    ids = np.random.default_rng(place).integers(0, 37, (1, 24))
    changed = ids.copy()
    changed[0, place] = token
    before, after = run(model_of(kind), ids), run(model_of(kind), changed)
    np.testing.assert_allclose(after[0, :place], before[0, :place], atol=1e-5)
    if ids[0, place] != token:
        assert np.abs(after[0, place] - before[0, place]).max() > 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_causality_holds_while_training(rate):
    """Dropout on the attention weights takes another path through the code."""
    model = GPT(ModelConfig(**LLAMA, dropout=rate), seed=1)
    ids = np.zeros((1, 12), "int32")
    changed = ids.copy()
    changed[0, 8:] = 5
    outputs = []
    for tokens in (ids, changed):
        model.dropout_key.count.assign(0)
        outputs.append(keras.ops.convert_to_numpy(model(tokens, training=True)))
    np.testing.assert_allclose(outputs[0][0, :8], outputs[1][0, :8], atol=1e-5)
    assert np.abs(outputs[0][0, 8:] - outputs[1][0, 8:]).max() > 1e-3


def test_a_token_beyond_every_layers_window_is_forgotten():
    """Two layers with a window of 5 see 9 tokens: the tenth back has no influence."""
    ids = np.zeros((1, 24), "int32")
    changed = ids.copy()
    changed[0, 3] = 9
    before, after = run(model_of("window"), ids), run(model_of("window"), changed)
    differs = np.abs(before - after).max(axis=-1)[0] > 1e-5
    assert differs[3:12].all()
    assert not differs[12:].any()


def test_the_model_has_the_parameters_that_the_table_lists(kind):
    model = model_of(kind)
    built = {path_below(v): tuple(v.shape) for v in model.trainable_variables}
    assert built == dict(parameter_shapes(model.config))
    sizes = [v.numpy().size for v in model.trainable_variables]
    assert model.config.num_parameters() == sum(sizes)


def test_pretrained_and_generate_are_methods_of_the_model(tmp_path):
    model = GPT(ModelConfig(**SMALL), seed=2)
    model.save_pretrained(tmp_path / "model")
    again = GPT.from_pretrained(tmp_path / "model")
    ids = np.array([[1, 2, 3]])
    texts = [np.asarray(m.generate(ids, max_tokens=5, temperature=0)) for m in (model, again)]
    assert texts[0].shape == (1, 8)
    np.testing.assert_array_equal(*texts)


def test_gpt2_residual_projections_start_smaller():
    """By 1 / sqrt(2 layers), as in GPT-2; everything else has the range's deviation."""
    config = ModelConfig(vocab_size=300, hidden_dim=64, num_layers=8, num_heads=4)
    weights = reference.weights_of(GPT(config, seed=11))
    for path, value in weights.items():
        if value.ndim < 2:
            continue
        shrunk = path.endswith(("attention/output", "mlp/down"))
        expected = 0.02 / np.sqrt(16) if shrunk else 0.02
        assert value.std() == pytest.approx(expected, rel=0.1), path
        assert abs(value.mean()) < 4 * expected / np.sqrt(value.size), path


def test_weights_are_a_function_of_the_seed():
    """The very numbers, which are the same on every backend."""
    config = ModelConfig(**SMALL)
    one, same, other = (reference.weights_of(GPT(config, seed=s)) for s in (1, 1, 2))
    assert all((one[path] == same[path]).all() for path in one)
    assert (one["block_0/attention/qkv"] != other["block_0/attention/qkv"]).all()
    assert (one["block_0/attention/qkv"] != one["block_1/attention/qkv"]).all()
    assert one["token_embedding"][0, 0] == pytest.approx(0.00024578612647019327, rel=1e-6)


def test_a_model_needs_a_vocabulary():
    with pytest.raises(UsageError, match="vocab_size"):
        GPT(ModelConfig())
