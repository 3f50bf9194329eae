"""Model directories: round trips, and files that are damaged or contradict each other."""

import json
import struct

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kgpt.checkpoints.generation_config import load_sampling
from kgpt.checkpoints.pretrained import (
    load_config,
    load_model,
    load_weights,
    save_model,
)
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.config import ModelConfig, SamplingConfig
from kgpt.errors import CheckpointError, UsageError
from kgpt.model.gpt import GPT
from kgpt.text.tokenizer import Tokenizer

pytestmark = [pytest.mark.backend, pytest.mark.portable]

SMALL = {"vocab_size": 259, "max_length": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 8}
LLAMA = {"position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
IDS = np.arange(10)[None]


@pytest.fixture
def folder(tmp_path):
    """A GPT-2-shaped model directory."""
    path = tmp_path / "model"
    path.mkdir()
    save_model(GPT(ModelConfig(**SMALL)), path, Tokenizer.of_bytes(), sampling=SamplingConfig())
    return path


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def logits(model):
    return keras.ops.convert_to_numpy(model(IDS))


@pytest.mark.parametrize("values", [
    {}, {"bias": False}, {"tie_embeddings": False}, LLAMA, {"position": "sinusoidal"},
    {"qk_norm": True, "norm": "rms"}, {**LLAMA, "qkv_bias": True, "num_kv_heads": 1},
    {**LLAMA, "bias": True, "mlp_bias": False},
])  # fmt: skip
def test_what_is_saved_is_loaded(values, tmp_path):
    model = GPT(ModelConfig(**SMALL, **values), seed=1)
    save_model(model, tmp_path)
    np.testing.assert_array_equal(logits(load_model(tmp_path)), logits(model))
    other = GPT(model.config, seed=2)
    load_weights(other, tmp_path)
    np.testing.assert_array_equal(logits(other), logits(model))


def test_loading_draws_no_noise(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a random weight was made")

    monkeypatch.setattr(np.random, "Philox", refuse)
    load_model(folder)


def test_a_bfloat16_model_is_near_and_half_as_large(folder):
    wide, narrow = load_model(folder), load_model(folder, dtype="bfloat16")
    assert {v.dtype for v in narrow.trainable_variables if len(v.shape) > 1} == {"bfloat16"}
    np.testing.assert_allclose(logits(narrow), logits(wide), atol=0.02)


def test_a_loaded_model_survives_a_keras_file(folder, tmp_path):
    model = load_model(folder)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits(again), logits(model))


def test_shards_hold_what_one_file_holds(folder, tmp_path):
    config = load_config(folder)
    weights = Weights(folder, config)
    (tmp_path / "shards").mkdir()
    write_weights(tmp_path / "shards", config, weights.read, max_shard_bytes=3000)
    index = json.loads((tmp_path / "shards/model.safetensors.index.json").read_text())
    shards = {file.name for file in (tmp_path / "shards").glob("*.safetensors")}
    assert len(shards) > 2 and set(index["weight_map"].values()) == shards
    again = Weights(tmp_path / "shards", config)
    for path in weights.shapes:
        np.testing.assert_array_equal(again.read(path), weights.read(path))


def test_known_buffers_and_missing_prefixes_are_no_error(folder):
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    bare |= {"h.0.attn.bias": np.tril(np.ones((1, 1, 16, 16), "float32")),
             "h.0.attn.masked_bias": np.array(-1e4, "float32"),
             "lm_head.weight": tensors["transformer.wte.weight"]}  # fmt: skip
    expected = logits(load_model(folder))
    save_file(bare, folder / "model.safetensors")
    np.testing.assert_array_equal(logits(load_model(folder)), expected)


# -- faults: one sentence each, before anything is built -------------------------------------------


def refused(folder, pattern):
    with pytest.raises(CheckpointError, match=pattern) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file(folder, keep):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refused(folder, "model.safetensors is (damaged|empty; copy)")


def test_a_header_of_absurd_size(folder):
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**62) + file.read_bytes()[8:])
    refused(folder, "is damaged")


def test_a_missing_tensor_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.1.mlp.c_fc.bias"]
    save_file(tensors, folder / "model.safetensors")
    refused(folder, r"lacks the tensor transformer\.h\.1\.mlp\.c_fc\.bias")


def test_a_tensor_too_many_is_named(folder):
    tensors = load_file(folder / "model.safetensors") | {"adapter": np.ones(3, "float32")}
    save_file(tensors, folder / "model.safetensors")
    refused(folder, "the tensor adapter, which is not part of the model")


def test_an_integer_tensor_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.ln_f.weight"] = tensors["transformer.ln_f.weight"].astype("int64")
    save_file(tensors, folder / "model.safetensors")
    refused(folder, r"transformer\.ln_f\.weight in .* has dtype I64")


@pytest.mark.parametrize("lie", [
    {"n_embd": 16}, {"vocab_size": 10**12}, {"n_positions": 10**12}, {"n_layer": 10**9},
    {"n_layer": 1}, {"n_inner": 7},
])  # fmt: skip
def test_a_config_that_lies_about_its_shape(folder, lie):
    change_config(folder, **lie)
    refused(folder, "config.json")


@pytest.mark.parametrize("lie", [
    {"n_head": 3}, {"n_embd": -1}, {"n_embd": "many"}, {"n_layer": None}, {"model_type": "t5"},
    {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}, {"kgpt": [1]},
])  # fmt: skip
def test_a_config_that_describes_nothing_kgpt_runs(folder, lie):
    change_config(folder, **lie)
    refused(folder, ".")


def test_a_config_that_is_no_object(folder):
    for text in ("[]", "{", "null", "\xff"):
        (folder / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(Exception, match="config.json") as caught:
            load_config(folder)
        assert type(caught.value).__module__ == "kgpt.errors"


def test_an_unknown_rope_scaling(tmp_path):
    save_model(GPT(ModelConfig(**SMALL, **LLAMA)), tmp_path)
    change_config(tmp_path, rope_scaling={"rope_type": "longrope", "factor": 2.0})
    refused(tmp_path, "no RoPE scaling 'longrope'")
    change_config(tmp_path, rope_scaling=None, partial_rotary_factor=0.5)
    refused(tmp_path, "partial_rotary_factor 0.5")


def test_an_index_that_points_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    weight_map = {"transformer.wte.weight": "../secret.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    refused(folder, "outside its folder")
    index.write_text("{}")
    refused(folder, "is damaged")


def test_nonzero_biases_of_a_model_without_biases(tmp_path):
    save_model(GPT(ModelConfig(**SMALL, bias=False)), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.ln_f.bias"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    refused(tmp_path, r"transformer\.ln_f\.bias is not zero")


def test_pickled_weights_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pickles")


# -- sampling --------------------------------------------------------------------------------------


def test_the_default_sampling_comes_back(tmp_path):
    sampling = SamplingConfig(temperature=0.7, top_k=40, top_p=0.9, min_p=0.05)
    save_model(GPT(ModelConfig(**SMALL)), tmp_path, Tokenizer.of_bytes(), sampling=sampling)
    assert load_sampling(tmp_path) == sampling


def test_greedy_and_empty_generation_configs(tmp_path):
    assert load_sampling(tmp_path) == SamplingConfig()
    file = tmp_path / "generation_config.json"
    file.write_text('{"do_sample": false, "max_new_tokens": 7, "eos_token_id": 2}')
    assert load_sampling(tmp_path) == SamplingConfig(temperature=0, max_tokens=7)
    file.write_text('{"top_p": 7}')
    with pytest.raises(UsageError, match="top_p"):
        load_sampling(tmp_path)
