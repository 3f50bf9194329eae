"""Small models of every kind, built once a process."""

import functools

import keras
import numpy as np
import pytest

from kgpt.config import ModelConfig

SMALL = {
    "vocab_size": 37, "max_length": 24, "num_layers": 2, "num_heads": 4, "hidden_dim": 32,
}  # fmt: skip
LLAMA = {
    **SMALL, "num_kv_heads": 2, "intermediate_dim": 48, "position": "rotary", "norm": "rms",
    "activation": "swiglu", "bias": False, "tie_embeddings": False, "norm_epsilon": 1e-6,
}  # fmt: skip
KINDS = {
    "gpt2": SMALL,
    "gpt2-no-bias": {**SMALL, "bias": False, "activation": "gelu"},
    "llama": LLAMA,
    "one-kv-head": {**LLAMA, "num_kv_heads": 1, "tie_embeddings": True},
    "qk-norm": {**LLAMA, "qk_norm": True, "qkv_bias": True},
    "window": {**SMALL, "sliding_window": 5},
    "llama-window": {**LLAMA, "sliding_window": 3, "head_dim": 6},
    "sinusoidal": {**SMALL, "position": "sinusoidal", "norm": "rms"},
}


@functools.cache
def model_of(kind, **options):
    """A `kgpt.GPT` of one of `KINDS`, whose weights are all far from their initial zeros and ones.

    Nobody may change it.
    """
    from kgpt import GPT

    model = GPT(ModelConfig(**KINDS[kind]), seed=3, **options)
    noise = np.random.default_rng(7)
    for variable in model.trainable_variables:
        away = noise.normal(0, 0.3, variable.shape).astype("float32")
        variable.assign(variable + keras.ops.convert_to_tensor(away))
    return model


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param


@pytest.fixture
def ids():
    """(2, 24) token ids below 37."""
    return np.random.default_rng(0).integers(0, 37, (2, 24)).astype("int32")
