"""How a run is divided among devices: the rules, which need no device."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import Config, DistributeConfig, ModelConfig
from kgpt.config.distribute import replicated, sharded_axes
from kgpt.config.parameters import parameter_shapes
from kgpt.errors import UsageError

GPT2 = ModelConfig(vocab_size=96, num_layers=1, num_heads=4, hidden_dim=32, max_length=16)
BAD = [
    ({"data": 0}, "distribute.data should be greater than or equal to 1, not 0."),
    ({"fsdp": True}, "distribute: fsdp shards along distribute.data, which is 1; give it more"),
    ({"sequence": True}, "distribute: sequence shards along distribute.model, which is 1; give it"),
]


@pytest.mark.parametrize(("values", "sentence"), BAD)
def test_a_bad_value_is_a_sentence(values, sentence):
    with pytest.raises(UsageError) as error:
        Config.parse({"distribute": values})
    assert str(error.value).startswith(sentence)


def test_what_cannot_be_divided_is_a_sentence():
    with pytest.raises(UsageError, match="train.batch_size 12 cannot be divided among 8 devices"):
        DistributeConfig(data=8).check_batch(12)
    with pytest.raises(UsageError, match="model.num_heads 4 cannot be divided among 8 devices"):
        DistributeConfig(model=8).check_model(GPT2)
    DistributeConfig(data=4).check_batch(12)
    DistributeConfig(model=4).check_model(GPT2)


@given(st.sampled_from([1, 2, 3, 4, 8]), st.sampled_from([1, 2, 4]), st.booleans())
def test_every_sharded_dimension_is_divisible(data, model, fsdp):
    mesh = DistributeConfig(data=data, model=model, fsdp=fsdp and data > 1)
    sizes = {"data": data, "model": model, None: 1}
    for path, shape in parameter_shapes(GPT2):
        axes = sharded_axes(path, shape, mesh)
        assert len(axes) == len(shape)
        assert all(size % sizes[axis] == 0 for size, axis in zip(shape, axes, strict=True))
        assert len({*axes} - {None}) == sum(axis is not None for axis in axes), "an axis once"


def test_outputs_of_the_first_product_are_inputs_of_the_second():
    """One sum over the devices for the attention of a block, and one for its MLP."""
    mesh = DistributeConfig(model=2)
    axes = {path: sharded_axes(path, shape, mesh) for path, shape in parameter_shapes(GPT2)}
    assert axes["block_0/attention/qkv"] == axes["block_0/mlp/up"] == (None, "model")
    assert axes["block_0/attention/output"] == axes["block_0/mlp/down"] == ("model", None)
    assert axes["block_0/mlp/up_bias"] == ("model",)
    assert axes["block_0/mlp/down_bias"] == (None,)
    assert axes["token_embedding"] == ("model", None)


ADAPTERS_AND_FORMATS = [
    ("block_0/attention/q_proj_lora_b", (8, 32), (None, "model")),
    ("block_0/attention/q_proj_lora_a", (32, 8), (None, None)),
    ("block_0/mlp/c_proj_lora_a", (128, 8), ("model", None)),
    ("block_0/mlp/c_proj_lora_b", (8, 32), (None, None)),
    ("block_0/mlp/up_transposed", (128, 32), ("model", None)),
    ("block_0/mlp/down_q", (32, 128), (None, "model")),
    ("token_embedding_scale", (96,), ("model",)),
    ("block_0/mlp_norm/scale", (32,), (None,)),
]


@pytest.mark.parametrize(("path", "shape", "axes"), ADAPTERS_AND_FORMATS)
def test_adapters_and_formats_follow_their_weight(path, shape, axes):
    assert sharded_axes(path, shape, DistributeConfig(model=2)) == axes


def test_what_is_replicated_is_counted():
    odd = GPT2.model_copy(update={"vocab_size": 97})
    found = replicated(parameter_shapes(odd), DistributeConfig(model=2))
    assert found == {"token_embedding": 97 * 32, "position_embedding": 16 * 32}
