"""Causal attention in plain Keras operations, for the backends that compile it.

Queries are processed in chunks, each against the keys up to its own end, so that most of the
masked upper triangle of the score matrix is never computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from kgpt.backend.attention_choice import effective_window

Tensor = Any

CHUNK = 128  # queries; fastest of 64, 128, 256 on CPU at T = 256


def chunked_causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None = None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention.

    Args:
        query: (B, T, N, H), already multiplied by the softmax scale.
        key, value: (B, T, K, H); each of the K heads serves N / K query heads.
        window: sliding-window size, the token itself included; None for full attention.
        segment_ids: (B, T) of packed sequences: tokens attend within their segment only. None for
            one segment.

    Returns:
        (B, T, N, H).
    """
    length = query.shape[1]
    window = effective_window(window, length)
    q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, N | K, T, H)
    chunk = CHUNK if length is not None and length % CHUNK == 0 else length
    if length is None:
        mask = causal_mask(q, k, 0, 0, window, segment_ids)
        return ops.transpose(_attend(q, k, v, mask), (0, 2, 1, 3))
    outputs = []
    for start in range(0, length, chunk):
        end = start + chunk
        first = 0 if window is None else max(0, start - window + 1)
        keys, values = k[:, :, first:end], v[:, :, first:end]
        queries = q[:, :, start:end]
        mask = causal_mask(queries, keys, start, first, window, segment_ids)
        outputs.append(_attend(queries, keys, values, mask))
    return ops.transpose(ops.concatenate(outputs, axis=2), (0, 2, 1, 3))  # (B, T, N, H)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of queries (B, N, T, H) on keys and values (B, K, S, H)."""
    return _weighted_values(attention_weights(q, k, mask, v.dtype), v)


def attention_weights(q: Tensor, k: Tensor, mask: Tensor, dtype: Any) -> Tensor:
    """softmax(q k^T) in float32, as `dtype`: (B, N, T, S).

    Args:
        q: (B, N, T, H). k: (B, K, S, H); the N / K query heads of each are rows of one product.
        mask: (T, S) or (B, 1, T, S) booleans.
    """
    shape = (-1, q.shape[1], ops.shape(q)[2], ops.shape(k)[2])
    scores = ops.matmul(_group(q, k.shape[1]), ops.transpose(k, (0, 1, 3, 2)))  # (B, K, G T, S)
    scores = ops.cast(ops.reshape(scores, shape), "float32")  # (B, N, T, S)
    return ops.cast(ops.softmax(ops.where(mask, scores, -1e30), axis=-1), dtype)


def _weighted_values(weights: Tensor, v: Tensor) -> Tensor:
    """Weights (B, N, T, S) times values (B, K, S, H): (B, N, T, H)."""
    shape = (-1, weights.shape[1], ops.shape(weights)[2], v.shape[3])
    return ops.reshape(ops.matmul(_group(weights, v.shape[1]), v), shape)


def _group(x: Tensor, num_kv_heads: int) -> Tensor:
    """(B, N, T, ...) as (B, K, N / K * T, ...): the query heads of a key/value head together."""
    groups = x.shape[1] // num_kv_heads
    return ops.reshape(x, (-1, num_kv_heads, groups * ops.shape(x)[2], ops.shape(x)[3]))


def causal_mask(
    q: Tensor,
    k: Tensor,
    query_start: int = 0,
    key_start: int = 0,
    window: int | None = None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    """(T, S) booleans: may the query at a row see the key at a column?

    With `segment_ids`, (B, 1, T, S): only if both are of one segment.
    """
    num_queries, num_keys = ops.shape(q)[-2], ops.shape(k)[-2]
    rows = ops.arange(num_queries)[:, None] + query_start
    columns = ops.arange(num_keys)[None, :] + key_start
    mask = columns <= rows
    if window is not None:
        mask = ops.logical_and(mask, columns > rows - window)
    if segment_ids is None:
        return mask
    query_segments = segment_ids[:, query_start : query_start + num_queries]
    key_segments = segment_ids[:, key_start : key_start + num_keys]
    same = ops.equal(query_segments[:, None, :, None], key_segments[:, None, None, :])
    return ops.logical_and(mask, same)


def attention_with_dropout(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop: Callable[[Tensor], Tensor],
    window: int | None = None,
    segment_ids: Tensor | None = None,
    prefix: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Like `chunked_causal_attention`, with `drop` applied to the attention weights (B, N, T, S).

    The whole (T, T) matrix is formed, because dropout needs one mask for all of it.

    `prefix` are more keys and values (B, K, P, H), before the others, that all queries see.
    """
    q, k, v = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (B, N | K, T, H)
    mask = causal_mask(q, k, 0, 0, window, segment_ids)
    if prefix is not None:
        k, v = (ops.concatenate([x, y], axis=2) for x, y in zip(prefix, (k, v), strict=True))
        seen = ops.ones((prefix[0].shape[2],), "bool")
        seen = ops.broadcast_to(seen, (*ops.shape(mask)[:-1], *seen.shape))
        mask = ops.concatenate([seen, mask], axis=-1)  # (T, P + T) or (B, 1, T, P + T)
    weights = drop(attention_weights(q, k, mask, v.dtype))
    return ops.transpose(_weighted_values(weights, v), (0, 2, 1, 3))


def scaled(query: Tensor) -> Tensor:
    """`query` times 1 / sqrt(H), the softmax scale."""
    return query * query.shape[-1] ** -0.5
