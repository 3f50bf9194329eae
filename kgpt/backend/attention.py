"""Causal attention in plain Keras operations, for the backends that compile it.

Queries are processed in chunks, each against the keys up to its own end, so that most of the
masked upper triangle of the score matrix is never computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any

CHUNK = 128  # queries; fastest of 64, 128, 256 on CPU at T = 256


def chunked_causal_attention(
    query: Tensor, key: Tensor, value: Tensor, window: int | None = None
) -> Tensor:
    """Causal softmax attention.

    Args:
        query: (B, T, N, H), already multiplied by the softmax scale.
        key: (B, T, N, H).
        value: (B, T, N, H).
        window: sliding-window size, the token itself included; None for full attention.

    Returns:
        (B, T, N, H).
    """
    length = query.shape[1]
    q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, N, T, H)
    chunk = CHUNK if length is not None and length % CHUNK == 0 else length
    if length is None:
        return ops.transpose(_attend(q, k, v, 0, 0, window), (0, 2, 1, 3))
    outputs = []
    for start in range(0, length, chunk):
        end = start + chunk
        first = 0 if window is None else max(0, start - window + 1)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        outputs.append(_attend(q[:, :, start:end], keys, values, start, first, window))
    return ops.transpose(ops.concatenate(outputs, axis=2), (0, 2, 1, 3))  # (B, T, N, H)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, query_start: int, key_start: int, window: int | None
) -> Tensor:
    """Attention of (B, N, T, H) queries at `query_start` on (B, N, S, H) keys at `key_start`."""
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))  # (B, N, T, S)
    scores = ops.cast(scores, "float32")
    scores = ops.where(causal_mask(q, k, query_start, key_start, window), scores, -1e30)
    weights = ops.cast(ops.softmax(scores, axis=-1), v.dtype)
    return ops.matmul(weights, v)  # (B, N, T, H)


def causal_mask(
    q: Tensor, k: Tensor, query_start: int = 0, key_start: int = 0, window: int | None = None
) -> Tensor:
    """(T, S) booleans: may the query at a row see the key at a column?"""
    rows = ops.arange(ops.shape(q)[-2])[:, None] + query_start
    columns = ops.arange(ops.shape(k)[-2])[None, :] + key_start
    mask = columns <= rows
    if window is not None:
        mask = ops.logical_and(mask, columns > rows - window)
    return mask


def attention_with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop: Callable[[Tensor], Tensor],
    window: int | None = None,
) -> Tensor:
    """Like `chunked_causal_attention`, with `drop` applied to the attention weights.

    The whole (T, T) matrix is formed, because dropout needs one mask for all of it.
    """
    q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, N, T, H)
    scores = ops.cast(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), "float32")
    scores = ops.where(causal_mask(q, k, 0, 0, window), scores, -1e30)
    weights = drop(ops.cast(ops.softmax(scores, axis=-1), v.dtype))
    return ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))


def scaled(query: Tensor) -> Tensor:
    """`query` times 1 / sqrt(H), the softmax scale."""
    return query * keras.ops.cast(query.shape[-1] ** -0.5, query.dtype)


def cached_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of new tokens on a cache.

    Args:
        query: (B, N, T, H), already multiplied by the softmax scale.
        keys, values: (B, K, S, H); each of the K serves N / K query heads.
        mask: (B, T, S) booleans.

    Returns:
        (B, N, T, H).
    """
    batch, heads, length, width = ops.shape(query)
    kv, cache_len, groups = keys.shape[1], ops.shape(keys)[2], query.shape[1] // keys.shape[1]
    # Batch and heads are merged into one axis: about 2x faster on XLA:CPU at batch size 1.
    query = ops.reshape(query, (-1, groups * length, width))  # (B K, G T, H)
    keys, values = (ops.reshape(x, (-1, cache_len, width)) for x in (keys, values))  # (B K, S, H)
    scores = ops.matmul(query, ops.transpose(keys, (0, 2, 1)))  # (B K, G T, S)
    scores = ops.reshape(ops.cast(scores, "float32"), (batch, kv, groups, length, cache_len))
    scores = ops.where(mask[:, None, None], scores, -1e30)
    weights = ops.cast(ops.softmax(scores, axis=-1), values.dtype)
    weights = ops.reshape(weights, (-1, groups * length, cache_len))
    return ops.reshape(ops.matmul(weights, values), (batch, heads, length, width))
