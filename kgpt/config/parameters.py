"""The one table of a GPT's parameters: path and shape of each, from the configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kgpt.config.model import ModelConfig

Shapes = dict[str, tuple[int, ...]]


def parameter_shapes(config: ModelConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Path and shape of every variable of a GPT, in the model's order."""
    d, f, h = config.hidden_dim, config.intermediate_dim, config.head_dim
    heads, kv = config.num_heads * h, config.num_kv_heads * h
    hidden = f * (2 if config.activation == "swiglu" else 1)
    norm: Shapes = {"scale": (d,)}
    norm |= {"bias": (d,)} if config.norm == "layer" and config.bias else {}
    attention: Shapes = {"qkv": (d, heads + 2 * kv), "output": (heads, d)}
    attention |= {"qkv_bias": (heads + 2 * kv,)} if config.qkv_bias else {}
    attention |= {"output_bias": (d,)} if config.bias else {}
    attention |= {"query_norm/scale": (h,), "key_norm/scale": (h,)} if config.qk_norm else {}
    mlp: Shapes = {"up": (d, hidden), "down": (f, d)}
    mlp |= {"up_bias": (hidden,), "down_bias": (d,)} if config.mlp_bias else {}
    parts = {"attention_norm": norm, "attention": attention, "mlp_norm": norm, "mlp": mlp}
    vocab = config.known_vocab_size
    yield "token_embedding", (vocab, d)
    if config.position == "learned":
        yield "position_embedding", (config.max_length, d)
    if not config.tie_embeddings:
        yield "head", (vocab, d)
    for i in range(config.num_layers):
        for part, weights in parts.items():
            for name, shape in weights.items():
                yield f"block_{i}/{part}/{name}", shape
    for name, shape in norm.items():
        yield f"final_norm/{name}", shape
