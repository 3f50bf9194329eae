"""Key/value caches: the keys and values of past tokens, so that each token is computed once.

A cache is a list with one (keys, values) pair per layer, each (B, K, S, H); in int8 the pair is
followed by the scales of both, each (B, K, S, 1) float32. It is a ring buffer of S slots per
sequence: position p is stored in slot p mod S, so a sequence longer than S overwrites its oldest
tokens and nothing is ever moved. The position of the newest token determines which position each
slot holds (`cache_attention_mask`), so nothing else is stored.
In a model with several adapters one more entry, (ids,), has the adapter of each sequence, (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import ModelConfig

Tensor = Any
LayerCache = tuple[Tensor, ...]
KVCache = list[LayerCache]

INT8_MAX = 127


def init_kv_cache(
    config: ModelConfig,
    batch_size: int | Tensor,
    cache_len: int | Tensor,
    dtype: str = "float32",
    adapter_ids: Sequence[int] | None = None,
) -> KVCache:
    """A cache of zeros for `batch_size` sequences with `cache_len` slots each.

    Args:
        dtype: of keys and values: a float type, or "int8" with a scale per token and head.
        adapter_ids: the adapter of each sequence, in a model with several.
    """
    shape = (batch_size, config.num_kv_heads, cache_len, config.head_dim)
    parts = [(shape, dtype)] * 2
    if dtype == "int8":
        parts += [((*shape[:3], 1), "float32")] * 2
    zeros = [tuple(ops.zeros(*part) for part in parts) for _ in range(config.num_layers)]
    return zeros if adapter_ids is None else [*zeros, adapter_entry(adapter_ids)]


def resize_cache(x: Tensor, cache_len: int) -> Tensor:
    """x (B, K, S, H) with S cut, or padded with zeros, to `cache_len`; anything else as it is."""
    if len(x.shape) != 4:
        return x
    length = x.shape[2]
    if cache_len <= length:
        return x[:, :, :cache_len]
    return ops.pad(x, ((0, 0), (0, 0), (0, cache_len - length), (0, 0)))


def adapter_entry(adapter_ids: Sequence[int]) -> tuple[Tensor]:
    """The last entry of the cache of a model with several adapters: that of each sequence, (B,)."""
    return (ops.convert_to_tensor(list(adapter_ids), "int32"),)


def split_adapter_ids(cache: KVCache) -> tuple[KVCache, Tensor | None]:
    """The (keys, values) of the layers, and the adapter of each sequence if the model has any."""
    return (cache[:-1], cache[-1][0]) if len(cache[-1]) == 1 else (cache, None)


class CacheUpdate(NamedTuple):
    """Where new tokens are stored in a cache and which slots they attend to: alike in all layers.

    Attributes:
        positions: (B, T) of the new tokens in their sequences.
        indices: the slots they are stored in, in the form that `backend.update_cache` takes.
        mask: (B, T, S) booleans, from `cache_attention_mask`.
        filled: () int32; no token attends to a slot from there on.
        adapter_ids: (B,) the adapter of each sequence, in a model with several.
    """

    positions: Tensor
    indices: Any
    mask: Tensor
    filled: Tensor
    adapter_ids: Tensor | None = None

    def store(self, layer: LayerCache, key: Tensor, value: Tensor) -> LayerCache:
        """One layer's cache with the new tokens' key and value, each (B, K, T, H), stored."""
        new = as_stored(layer, key, value)
        return tuple(
            backend.update_cache(part, x, self.indices) for part, x in zip(layer, new, strict=True)
        )


def as_stored(layer: LayerCache, key: Tensor, value: Tensor) -> LayerCache:
    """Key and value, each (B, K, T, H), in the types of a layer's cache, with scales in int8."""
    new: LayerCache = (key, value)
    if len(layer) == 4:
        (key, key_scale), (value, value_scale) = quantize_heads(key), quantize_heads(value)
        new = (key, value, key_scale, value_scale)
    return tuple(ops.cast(x, part.dtype) for part, x in zip(layer, new, strict=True))


def quantize_heads(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, K, T, H) as int8, and the scale of each token's head (B, K, T, 1) float32."""
    x = ops.cast(x, "float32")
    scale = ops.maximum(ops.max(ops.abs(x), axis=-1, keepdims=True), 1e-30) / INT8_MAX
    return ops.cast(ops.round(x / scale), "int8"), scale


def plan_cache_update(
    start: Tensor, count: Tensor, length: int, cache_len: int | Tensor, window: int | None = None
) -> CacheUpdate:
    """The update by `length` new tokens per sequence, of which the first `count` (B,) are real.

    Args:
        start: (B,) position of each sequence's first new token.
        cache_len, window: as for `cache_attention_mask`.
    """
    positions = start[:, None] + ops.arange(length)[None]  # (B, T)
    indices = backend.cache_indices(start, count, length, cache_len)
    mask = cache_attention_mask(positions, start + count - 1, cache_len, window)
    filled = ops.max(ops.where(count > 0, start + count, 1))
    return CacheUpdate(positions, indices, mask, ops.minimum(filled, cache_len))


def cache_attention_mask(
    positions: Tensor, newest: Tensor, cache_len: int | Tensor, window: int | None = None
) -> Tensor:
    """Which cache slots each query attends to: (B, T, S) booleans.

    Args:
        positions: (B, T) of the queries.
        newest: (B,) position of the last token stored.
        cache_len: S.
        window: a query attends to at most so many tokens, itself included; None for all.
    """
    # A slot holds the greatest position up to `newest` that equals the slot's index mod S.
    slots = ops.arange(cache_len)[None]
    slot_positions = newest[:, None] - ops.mod(newest[:, None] - slots, cache_len)  # (B, S)
    slot_positions = slot_positions[:, None]  # (B, 1, S)
    mask = ops.logical_and(slot_positions >= 0, slot_positions <= positions[:, :, None])
    if window is not None:
        mask = ops.logical_and(mask, slot_positions > positions[:, :, None] - window)
    return mask


def bucket(length: int, smallest: int = 16) -> int:
    """`length` rounded up to a power of two, so that few shapes are ever compiled."""
    return max(smallest, 1 << int(np.ceil(np.log2(max(length, 1)))))
