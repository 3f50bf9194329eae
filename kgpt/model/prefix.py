"""Prefix tuning (Li & Liang, 2021): trained keys and values that every text attends to.

Each layer has P virtual tokens, keys and values (K, P, H), that stand before the text: the position
of its first token is P, and the keys are not rotated, as in PEFT. A KV cache begins with them, so
that decoding costs what P more tokens of a prompt cost. They are float32 whatever the type of the
frozen weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend.attention import attention_with_dropout
from kgpt.config.prefix import PrefixConfig
from kgpt.errors import UsageError
from kgpt.model.adapters import add_adapter_weight, freeze_for_adapters, refresh
from kgpt.model.kv_cache import LayerCache, as_stored

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT
    from kgpt.model.kv_cache import KVCache

Tensor = Any


class Prefix:
    """The virtual tokens of one layer: keys and values (K, P, H)."""

    def __init__(self, keys: keras.Variable, values: keras.Variable) -> None:
        self.keys, self.values = keys, values

    def __len__(self) -> int:
        return int(self.keys.shape[1])

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.keys, self.values]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        drop: Callable[[Tensor], Tensor] | None = None,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Causal attention on the virtual tokens, which no segment hides, and on the text.

        Args:
            query: (B, T, N, H), already multiplied by the softmax scale.
            key, value: (B, T, K, H).
            drop: applied to the attention weights (B, N, T, P + T).
            segment_ids: (B, T) of packed sequences.

        Returns:
            (B, T, N, H).
        """
        batch = ops.shape(query)[0]
        prefix = tuple(_rows(x, batch, key.dtype) for x in self.variables)  # (B, K, P, H) each
        return attention_with_dropout(
            query, key, value, drop or (lambda weights: weights), None, segment_ids, prefix
        )

    def fill(self, layer: LayerCache) -> LayerCache:
        """One layer's cache (B, K, S, H) with the virtual tokens in its first slots."""
        rows = (_rows(x, ops.shape(layer[0])[0], "float32") for x in self.variables)
        return tuple(
            ops.concatenate([x, part[:, :, len(self) :]], 2)
            for x, part in zip(as_stored(layer, *rows), layer, strict=True)
        )


def _rows(x: keras.Variable, batch: Any, dtype: Any) -> Tensor:
    """x (K, P, H) for each row of a batch: (B, K, P, H) of another type."""
    return ops.broadcast_to(ops.cast(x, dtype)[None], (batch, *x.shape))


def attach_prefix(
    model: GPT, config: PrefixConfig, seed: int | None = 0, trains: bool = True
) -> None:
    """Freeze a model and give it a prefix, which is that of `num_virtual_tokens` random tokens.

    The keys and values that the model itself computes of tokens are a better start than noise
    (Li & Liang, 2021, section 7.4).

    Args:
        seed: of those tokens; None makes zeros, to which a stored prefix is assigned.
        trains: as for `freeze_for_adapters`.

    Raises:
        UsageError: the model has adapters, attends to a sliding window, has no room for the
            prefix, or has weights in a format for inference only.
    """
    length = config.num_virtual_tokens
    if model.config.sliding_window is not None:
        raise UsageError(
            "Prefix tuning needs attention to the whole text, but this model has a sliding window; "
            "use lora or adapter."
        )
    if length >= model.config.max_length:
        raise UsageError(
            f"prefix.num_virtual_tokens {length} leaves no room for text in a context of "
            f"{model.config.max_length}; lower it."
        )
    freeze_for_adapters(model, trains)
    shape = (model.config.num_kv_heads, length, model.config.head_dim)
    first = [] if seed is None else _of_random_tokens(model, length, seed)
    prefixes = []
    for layer, block in enumerate(model.blocks):
        initializers = map(_constant, first[layer]) if first else ("zeros", "zeros")
        keys, values = (
            add_adapter_weight(block.attention, f"prefix_{name}", shape, initializer)
            for name, initializer in zip(("keys", "values"), initializers, strict=True)
        )
        prefixes.append(Prefix(keys, values))
    for block, prefix in zip(model.blocks, prefixes, strict=True):
        block.attention.prefix = prefix
    refresh(model)


def _of_random_tokens(model: GPT, length: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The keys and values (K, P, H) that each layer computes of random tokens."""
    vocab_size = model.config.known_vocab_size
    ids = np.random.default_rng(seed).integers(0, vocab_size, (1, length)).astype("int32")
    start, count = np.zeros(1, "int32"), np.full(1, length, "int32")
    ids, start, count = backend.to_device((ids, start, count))
    cache: KVCache = model.call_with_cache(ids, start, count, model.new_cache(1, length))[1]
    return [(keys[0], values[0]) for keys, values in cache[: len(model.blocks)]]


def _constant(x: Tensor) -> Any:
    value = np.asarray(backend.to_host(x), "float32")
    return lambda shape, dtype: ops.convert_to_tensor(value, dtype)
