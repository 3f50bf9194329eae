"""Writing new tokens to a KV cache on TensorFlow."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import ops

Tensor = Any

MIN_WINDOW_LEN = 16  # XLA takes ten times as long to compile the windows of a few tokens


def cache_indices(start: Tensor, count: Tensor, length: Any, cache_len: Any) -> Any:
    """Where new tokens go in a KV cache, in the form that `update_cache` takes.

    For one new token: its cache position (B,), and whether it is no padding (B,).

    For more: windows of the cache in which all tokens lie, each as its first position (B,), which
    new token each of its positions receives (B, T), and whether it receives any (B, T). Two of
    them, of T positions: from the first token on, and the cache's beginning, where what lies
    beyond its end continues. One of all S positions where T is small, or T or S is known at run
    time only.
    """
    if isinstance(length, int) and length == 1:
        return start % cache_len, count > 0
    is_static = isinstance(length, int) and isinstance(cache_len, int)
    if not (is_static and MIN_WINDOW_LEN <= length < cache_len):
        return [_window(tf.zeros_like(start), cache_len, start, count, length, cache_len)]
    firsts = tf.minimum(start % cache_len, cache_len - length), tf.zeros_like(start)
    return [_window(first, length, start, count, length, cache_len) for first in firsts]


def _window(
    first: Tensor, width: Any, start: Tensor, count: Tensor, length: Any, cache_len: Any
) -> tuple[Tensor, Tensor, Tensor]:
    positions = first[:, None] + tf.range(width)[None]  # (B, T)
    # Distance of each position from the first new token, modulo the cache length.
    offset = (positions - start[:, None]) % cache_len
    return first, tf.minimum(offset, length - 1), offset < count[:, None]


def update_cache(cache: Tensor, new: Tensor, indices: Any) -> Tensor:
    """A cache (B, K, S, H) with new (B, K, T, H) written.

    One token is scattered: with a `where` over all S positions, XLA would recompute the rotary
    embedding of the new key at each. bfloat16 is written as integers: XLA on a CPU would convert
    the whole cache.
    """
    if cache.dtype == tf.bfloat16:
        integers = update_cache(tf.bitcast(cache, tf.uint16), tf.bitcast(new, tf.uint16), indices)
        return tf.bitcast(integers, tf.bfloat16)
    if new.shape[2] == 1:
        return _update_one(cache, new, *indices)
    for first, token, receives in indices:
        tokens = ops.take_along_axis(new, token[:, None, :, None], axis=2)  # (B, K, T, H)
        receives = receives[:, None, :, None]
        if token.shape[1] == cache.shape[2] or cache.shape[0] is None:
            cache = tf.where(receives, tokens, cache)
        else:
            cache = _update_window(cache, first, tokens, receives)
    return cache


def _update_window(cache: Tensor, first: Tensor, tokens: Tensor, receives: Tensor) -> Tensor:
    """A cache (B, K, S, H) with tokens (B, K, T, H) from positions `first` (B,) on, where
    `receives` (B, 1, T, 1)."""
    size = [1, *tokens.shape[1:]]
    for row in range(cache.shape[0]):
        begin = [row, 0, first[row], 0]
        kept = tf.slice(cache, begin, size)
        written = tf.where(receives[row : row + 1], tokens[row : row + 1], kept)
        cache = ops.slice_update(cache, begin, written)
    return cache


def _update_one(cache: Tensor, new: Tensor, slot: Tensor, real: Tensor) -> Tensor:
    """`update_cache` by one token a sequence, new (B, K, 1, H), at position `slot` (B,)."""
    rows, heads = tf.shape(cache)[0], cache.shape[1]
    row, head = tf.meshgrid(tf.range(rows), tf.range(heads), indexing="ij")
    at = tf.stack([row, head, tf.broadcast_to(slot[:, None], tf.shape(row))], axis=-1)  # (B, K, 3)
    token = tf.where(real[:, None, None], new[:, :, 0], tf.gather_nd(cache, at))  # (B, K, H)
    return tf.tensor_scatter_nd_update(cache, at, token)
