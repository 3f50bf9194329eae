"""Attention of new tokens on a KV cache in plain Keras operations, for backends that compile.

One layer's cache is (keys, values), each (B, K, S, H), in any type; in int8 it is (keys, values,
key scales, value scales), the latter (B, K, S, 1), one for each token and head.
"""

from __future__ import annotations

from typing import Any

from keras import ops
from keras.backend import standardize_dtype

Tensor = Any

BLOCK = 512  # cache positions; fastest of 128, 256, 512, 1024 on CPU for 256 queries
MIN_BLOCK_QUERIES = 16  # fewer queries read a whole float cache faster than its blocks
MIN_CHOICE_LEN = 2048  # with fewer positions, reading all of them takes too little time to matter
MASKED = -1e30


def cached_attention(
    query: Tensor, layer: tuple[Tensor, ...], mask: Tensor, filled: Tensor, on_cpu: bool
) -> Tensor:
    """Attention of new tokens on a cache, the faster way on the device.

    A GPU reads the whole cache: a loop would ask the host after each block.

    Args:
        query: (B, N, T, H), already multiplied by the softmax scale.
        layer: one layer's cache; each of its K heads serves N / K query heads.
        mask: (B, T, S) booleans.
        filled: () int32; no query attends to a position from there on.

    Returns:
        (B, N, T, H).
    """
    length, cache_len = query.shape[2], layer[0].shape[2]
    is_static = None not in (query.shape[0], length, cache_len)
    if not (on_cpu and is_static and cache_len > BLOCK):
        return attend_to_whole_cache(query, layer, mask)
    if length >= MIN_BLOCK_QUERIES or standardize_dtype(layer[0].dtype) != standardize_dtype(
        query.dtype
    ):
        return attend_in_blocks(query, layer, mask, filled)
    if cache_len < MIN_CHOICE_LEN:
        return attend_to_whole_cache(query, layer, mask)
    attended: Tensor = ops.cond(
        2 * filled <= cache_len,
        lambda: attend_in_blocks(query, layer, mask, filled),
        lambda: attend_to_whole_cache(query, layer, mask),
    )
    return attended


def attend_to_whole_cache(query: Tensor, layer: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Attention on all positions of a cache; the arguments are as in `cached_attention`."""
    keys, values, *scales = (_merge_heads(part) for part in layer)  # (B K, S, H | 1)
    grouped, shape = _group_queries(query, layer[0])
    scores = _scores(grouped, keys, shape)  # (B, K, G, T, S)
    if scales:
        scores = scores * _of_positions(scales[0], shape)
    weights = ops.softmax(ops.where(mask[:, None, None], scores, MASKED), axis=-1)
    if scales:
        weights = weights * _of_positions(scales[1], shape)
    return ops.reshape(_weighted(weights, values, query.dtype), ops.shape(query))


def attend_in_blocks(
    query: Tensor, layer: tuple[Tensor, ...], mask: Tensor, filled: Tensor
) -> Tensor:
    """`attend_to_whole_cache` that reads the filled positions alone, block by block.

    The softmax is computed online (Milakov and Gimelshein, 2018), as in FlashAttention (Dao et
    al., 2022): no scores of the whole cache exist, and other types than the query's are converted
    within the processor's cache. A block that a sequence does not attend to changes nothing of
    its result, which so does not depend on the batch.
    """
    cache_len = ops.shape(layer[0])[2]
    block = min(BLOCK, cache_len)
    grouped, shape = _group_queries(query, layer[0])

    def attend(i: Tensor, top: Tensor, total: Tensor, heads: Tensor) -> tuple[Tensor, ...]:
        # The last block of a cache that is no multiple of it overlaps the one before.
        first = ops.minimum(i * block, cache_len - block)
        keys, values, *scales = (_merge_heads(_slice(part, first, block, 2)) for part in layer)
        scores = _scores(grouped, keys, shape)  # (B, K, G, T, block)
        if scales:
            scores = scores * _of_positions(scales[0], shape)
        is_new = ops.arange(block, dtype="int32") + first >= i * block
        seen = ops.logical_and(_slice(mask, first, block, 2), is_new)[:, None, None]
        scores = ops.where(seen, scores, MASKED)
        new_top = ops.maximum(top, ops.max(scores, axis=-1, keepdims=True))
        weights, shrink = ops.exp(scores - new_top), ops.exp(top - new_top)
        total = total * shrink + ops.sum(weights, axis=-1, keepdims=True)
        if scales:
            weights = weights * _of_positions(scales[1], shape)
        new = ops.cast(_weighted(weights, values, query.dtype), "float32")
        return i + 1, new_top, total, heads * shrink + ops.reshape(new, (*shape, query.shape[3]))

    num_blocks = (filled + (block - 1)) // block
    start = (
        ops.zeros((), "int32"),
        ops.full((*shape, 1), MASKED),
        ops.zeros((*shape, 1)),
        ops.zeros((*shape, query.shape[3])),
    )
    _, _, total, heads = ops.while_loop(lambda i, *_: i < num_blocks, attend, start)
    return ops.reshape(ops.cast(heads / total, query.dtype), ops.shape(query))


def _group_queries(query: Tensor, keys: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
    """Queries (B, N, T, H) as (B K, G T, H), and (B, K, G, T).

    Batch and heads are merged into one axis: about 2x faster on XLA:CPU at batch size 1.
    """
    batch, heads, length, width = ops.shape(query)
    num_kv_heads = keys.shape[1]
    groups = heads // num_kv_heads
    return ops.reshape(query, (-1, groups * length, width)), (batch, num_kv_heads, groups, length)


def _merge_heads(x: Tensor) -> Tensor:
    """(B, K, S, H) as (B K, S, H)."""
    return ops.reshape(x, (-1, ops.shape(x)[2], x.shape[3]))


def _scores(query: Tensor, keys: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """Queries (B K, G T, H) times keys (B K, S, H): (B, K, G, T, S) float32."""
    keys = ops.transpose(ops.cast(keys, query.dtype), (0, 2, 1))
    scores = ops.cast(ops.matmul(query, keys), "float32")
    return ops.reshape(scores, (*shape, ops.shape(keys)[2]))


def _weighted(weights: Tensor, values: Tensor, dtype: Any) -> Tensor:
    """Weights (B, K, G, T, S) times values (B K, S, H): (B K, G T, H), of type `dtype`."""
    length = ops.shape(weights)[2] * ops.shape(weights)[3]
    weights = ops.reshape(ops.cast(weights, dtype), (-1, length, ops.shape(values)[1]))
    return ops.matmul(weights, ops.cast(values, dtype))


def _of_positions(scales: Tensor, shape: tuple[Any, ...]) -> Tensor:
    """Scales (B K, S, 1) as factors of scores: (B, K, 1, 1, S)."""
    return ops.reshape(scales, (shape[0], shape[1], 1, 1, ops.shape(scales)[1]))


def _slice(x: Tensor, first: Tensor, length: int, axis: int) -> Tensor:
    """`length` entries of x from `first` on, along `axis`.

    XLA on a CPU slices integers, but would convert all of a bfloat16 array to float32 before.
    """
    start = [0] * len(x.shape)
    start[axis] = first
    shape = list(x.shape)
    shape[axis] = length
    if standardize_dtype(x.dtype) == "bfloat16":
        return ops.view(ops.slice(ops.view(x, "uint16"), start, shape), "bfloat16")
    return ops.slice(x, start, shape)
