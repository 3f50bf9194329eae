"""Parameter counts, memory and FLOPs of a model, from its configuration alone. No Keras here."""

from __future__ import annotations

import math
from collections import Counter

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.quantized import stored_bytes
from kgpt.checkpoints.weight_map import tensor_mappings
from kgpt.config import ModelConfig
from kgpt.config.parameters import parameter_shapes

BYTES = {"float32": 4, "bfloat16": 2}
PARTS = {"token_embedding": "token embedding", "position_embedding": "position embedding"}


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters in embeddings, attention, feed-forward layers, norms and head, and the total."""
    counts: Counter[str] = Counter()
    for path, shape in parameter_shapes(config):
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
    """Bytes of all weights in each dtype; int8 and int4 as `kgpt quantize` stores them."""
    total = parameters_by_part(config)["total"]
    tensors = [
        (mapping, shape)
        for mapping in tensor_mappings(config, model_type_of(config))
        for _, shape, _ in mapping.tensors()
    ]
    quantized = {
        f"int{bits}": sum(stored_bytes(mapping, shape, bits) for mapping, shape in tensors)
        for bits in (8, 4)
    }
    return {name: size * total for name, size in BYTES.items()} | quantized


def cache_bytes(config: ModelConfig, tokens: int = 1) -> dict[str, int]:
    """Bytes of the KV cache for `tokens` tokens of one sequence, in each dtype."""
    sizes = BYTES | {"int8": 1}
    return {name: config.cache_bytes(tokens, size) for name, size in sizes.items()}


def flops_per_token(config: ModelConfig, length: int) -> dict[str, int]:
    """FLOPs a token at a context of `length`: to train, and to generate (a third of it)."""
    train = config.flops_per_token(length)
    return {"train": train, "generate": train // 3}
