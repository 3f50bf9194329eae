"""Key/value caches: the keys and values of past tokens, so that each token is computed once.

A cache is a list with one (keys, values) pair per layer, each (B, K, S, H). It is a ring buffer of
S slots per sequence: position p is stored in slot p mod S, so a sequence longer than S overwrites
its oldest tokens and nothing is ever moved. The position of the newest token determines which
position each slot holds (`cache_attention_mask`), so nothing else is stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import ModelConfig

Tensor = Any
KVCache = list[tuple[Tensor, Tensor]]


def init_kv_cache(
    config: ModelConfig, batch_size: int | Tensor, cache_len: int | Tensor, dtype: str = "float32"
) -> KVCache:
    """A cache of zeros for `batch_size` sequences with `cache_len` slots each."""
    shape = (batch_size, config.num_kv_heads, cache_len, config.head_dim)
    return [(ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in range(config.num_layers)]


class CacheUpdate(NamedTuple):
    """Where new tokens are stored in a cache and which slots they attend to: alike in all layers.

    Attributes:
        positions: (B, T) of the new tokens in their sequences.
        indices: the slots they are stored in, in the form that `backend.update_cache` takes.
        mask: (B, T, S) booleans, from `cache_attention_mask`.
    """

    positions: Tensor
    indices: Any
    mask: Tensor


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
    return CacheUpdate(positions, indices, mask)


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
