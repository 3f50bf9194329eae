"""Tiny models whose greedy output varies, and reference generation without a KV cache."""

import functools

import numpy as np

from kgpt.config import ModelConfig, SamplingConfig
from tests.tiny import GPT2, LLAMA

VOCABULARY = 61
SIZE = {"vocab_size": VOCABULARY, "max_length": 64, "initializer_range": 0.3}
KINDS = {
    "gpt2": {**GPT2, **SIZE},
    "llama": {**LLAMA, **SIZE, "intermediate_dim": None},
    "window": {**GPT2, **SIZE, "position": "rotary", "sliding_window": 5, "bias": False},
}


@functools.cache
def model_of(kind, seed=3):
    """A model shared between tests: do not change it."""
    from kgpt import GPT

    return GPT(ModelConfig(**KINDS[kind]), seed=seed)


@functools.cache
def _full(kind, length, seed):
    from kgpt import backend

    model = model_of(kind, seed)
    return backend.jit(lambda ids: model(ids), model.variables)


def logits_without_cache(kind, ids, seed=3):
    """(T, V) logits of a whole sequence in one forward pass."""
    from kgpt import backend

    size = KINDS[kind]["max_length"]
    padded = np.zeros((1, size), "int32")
    padded[0, : len(ids)] = ids
    return backend.to_host(_full(kind, size, seed)(padded))[0, : len(ids)]


def greedy_without_cache(kind, prompt, count):
    """Greedy decoding with a whole forward pass for each token."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(logits_without_cache(kind, text)[-1].argmax()))
    return text[len(prompt) :]


def prompts(*lengths, seed=0):
    noise = np.random.default_rng(seed)
    return [noise.integers(0, VOCABULARY, size=n).tolist() for n in lengths]


def greedy(count=12, **settings):
    return SamplingConfig(temperature=0, max_tokens=count, **settings)
