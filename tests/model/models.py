"""Models of every architecture, built once a process, with a small vocabulary and context."""

import functools

import keras

import kgpt
from kgpt.model.quantization import quantize
from tests.tiny import ARCHITECTURES, tiny_model

SIZE = {"vocab_size": 37, "max_length": 24}
KINDS = {kind: {**shape, **SIZE} for kind, shape in ARCHITECTURES.items() if kind != "llama"}
KINDS["llama"] = KINDS.pop("untied")
SMALL, LLAMA = KINDS["gpt2"], KINDS["llama"]


@functools.cache
def model_of(kind, **options):
    """A `kgpt.GPT` of one of `KINDS`, all weights far from their initial 0 and 1.

    Shared between tests: do not change it.
    """
    return tiny_model(seed=3, noise=0.3, **KINDS[kind], **options)


def quantized_model(kind, weight_format="int8", **options):
    """A model of one of `KINDS` whose weights are quantized."""
    model = kgpt.GPT(kgpt.ModelConfig(**KINDS[kind]), seed=3, **options)
    quantize(model, weight_format)
    return model


def dequantized(model):
    """A float model with the weights that a quantized model has."""
    twin = kgpt.GPT(model.config, seed=3)
    for mine, theirs in zip(twin.linears, model.linears, strict=True):
        mine.variable.assign(keras.ops.transpose(theirs.weight.as_table()))
    for mine, theirs in ((twin.token_embedding, model.token_embedding), (twin.head, model.head)):
        mine.variable.assign(theirs.weight.as_table())
    return twin
