"""What a model is made of and what it needs, from its configuration alone. No Keras here."""

from __future__ import annotations

import math
from collections import Counter

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.quantized import stored_bytes
from kgpt.checkpoints.weight_map import layout, shapes
from kgpt.config import ModelConfig

BYTES = {"float32": 4, "bfloat16": 2}
PARTS = {"token_embedding": "token embedding", "position_embedding": "position embedding"}


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Weights in the embeddings, attention, feed-forward layers, norms and head, and in all."""
    counts: Counter[str] = Counter()
    for path, shape in shapes(config):
        counts[_part(path)] += math.prod(shape)
    return {**counts, "total": counts.total()}


def _part(path: str) -> str:
    if path in PARTS:
        return PARTS[path]
    if path == "head":
        return "head"
    if "norm" in path:
        return "norms"
    return "attention" if "/attention/" in path else "feed-forward"


def weight_bytes(config: ModelConfig) -> dict[str, int]:
    """Bytes of all weights in each number format; int8 and int4 as `kgpt quantize` stores them."""
    total = parameters_by_part(config)["total"]
    plain = {name: size * total for name, size in BYTES.items()}
    tensors = [
        (stored, shape)
        for stored in layout(config, model_type_of(config))
        for _, shape, _ in stored.tensors()
    ]
    packed = {
        f"int{bits}": sum(stored_bytes(stored, shape, bits) for stored, shape in tensors)
        for bits in (8, 4)
    }
    return plain | packed


def cache_bytes(config: ModelConfig, tokens: int = 1) -> dict[str, int]:
    """Bytes of the keys and values of `tokens` tokens of one text, in each number format."""
    numbers = 2 * config.num_layers * config.num_kv_heads * config.head_dim * tokens
    return {name: size * numbers for name, size in BYTES.items()}


def flops_per_token(config: ModelConfig, length: int) -> dict[str, int]:
    """Floating-point operations a token at a context of `length`: to train and to write.

    Writing takes the forward pass alone, a third of training.
    """
    train = config.flops_per_token(length)
    return {"train": train, "generate": train // 3}
