"""Small models with strong opinions, and the slow way of writing with them."""

import functools

import numpy as np
import pytest

from kgpt.config import ModelConfig, SamplingConfig

VOCABULARY = 61
SMALL = {
    "vocab_size": VOCABULARY, "max_length": 64, "num_layers": 2, "num_heads": 4, "hidden_dim": 32,
    "initializer_range": 0.3,
}  # fmt: skip
KINDS = {
    "gpt2": SMALL,
    "llama": {**SMALL, "num_kv_heads": 2, "position": "rotary", "norm": "rms",
              "activation": "swiglu", "bias": False},
    "window": {**SMALL, "position": "rotary", "sliding_window": 5, "bias": False},
}  # fmt: skip


@functools.cache
def model_of(kind, seed=3):
    """A model; nobody may change it."""
    from kgpt import GPT

    return GPT(ModelConfig(**KINDS[kind]), seed=seed)


@functools.cache
def _full(kind, length, seed):
    from kgpt import backend

    model = model_of(kind, seed)
    return backend.jit(lambda ids: model(ids), model.variables)


def logits_without_cache(kind, ids, seed=3):
    """(T, V) logits of a whole text, computed at once."""
    size = KINDS[kind]["max_length"]
    padded = np.zeros((1, size), "int32")
    padded[0, : len(ids)] = ids
    return np.array(_full(kind, size, seed)(padded))[0, : len(ids)]


def greedy_without_cache(kind, prompt, count):
    """The slow way: the whole text again for each token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(logits_without_cache(kind, text)[-1].argmax()))
    return text[len(prompt) :]


def prompts(*lengths, seed=0):
    noise = np.random.default_rng(seed)
    return [noise.integers(0, VOCABULARY, size=n).tolist() for n in lengths]


def greedy(count=12, **settings):
    return SamplingConfig(temperature=0, max_tokens=count, **settings)


@pytest.fixture(params=list(KINDS))
def kind(request):
    return request.param
