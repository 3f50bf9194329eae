"""Attention on PyTorch: fused kernels for whole sequences, and a KV cache written in place."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.attention.flex_attention as flex
import torch.nn.functional as F

from kgpt.backend.attention import attention_with_dropout
from kgpt.backend.attention_choice import (
    AttentionCall,
    AttentionDevice,
    effective_window,
    torch_attention,
    torch_repeats_kv_heads,
)

Tensor = Any


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None = None,
    drop: Callable[[Tensor], Tensor] | None = None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    """Attention of a sequence on itself: query (B, T, N, H), key and value (B, T, K, H).

    With `segment_ids` (B, T), tokens attend within their segment only.
    """
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, N | K, T, H)
    length, groups = q.shape[2], q.shape[1] // k.shape[1]
    dtype = str(q.dtype).removeprefix("torch.")
    call = AttentionCall(
        dtype, q.shape[3], length, window, groups > 1, drop is not None, segment_ids is not None
    )
    device = attention_device(q.device)
    chosen = torch_attention(device, call)
    if chosen == "dropout":
        assert drop is not None
        return attention_with_dropout(query, key, value, drop, window, segment_ids)
    if chosen == "flex":
        window = effective_window(window, length)
        return flex_attention(q, k, v, window, segment_ids).transpose(1, 2)
    if torch_repeats_kv_heads(device, call):
        k, v, groups = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), 1
    mask = attention_mask(length, window, q.device, segment_ids) if chosen == "sdpa_mask" else None
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=groups > 1
    )
    return out.transpose(1, 2)


def attention_mask(
    length: int, window: int | None, device: Any, segment_ids: Tensor | None = None
) -> Tensor:
    """Which keys each query attends to: (T, T) booleans, with `segment_ids` (B, 1, T, T)."""
    steps = torch.arange(length, device=device)
    mask = _is_visible(steps[:, None], steps[None, :], window)
    if segment_ids is None:
        return mask
    return mask & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])


def _is_visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Does a query at one position attend to a key at another?"""
    distance = query - key
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def flex_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int | None, segment_ids: Tensor | None = None
) -> Tensor:
    """FlexAttention (Dong et al., 2024) of q (B, N, T, H) on k and v (B, K, T, H)."""
    compiling = torch.compiler.is_compiling()  # as a part of what is being compiled
    attend = flex.flex_attention if compiling else compiled_flex_attention()
    if segment_ids is not None:
        mask = segment_block_mask(segment_ids, window)
    else:
        make = make_block_mask if compiling else block_mask
        mask = make(q.shape[2], window, q.device)
    grouped = q.shape[1] != k.shape[1]
    return attend(q, k, v, block_mask=mask, scale=1.0, enable_gqa=grouped)


def make_block_mask(length: int, window: int | None, device: Any) -> Any:
    """Which blocks of keys the blocks of queries attend to, for FlexAttention."""

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _is_visible(query, key, window)

    return flex.create_block_mask(mask_mod, None, None, length, length, device=device)


def segment_block_mask(segment_ids: Tensor, window: int | None) -> Any:
    """`make_block_mask` for each sequence of a batch with segments (B, T)."""
    batch_size, length = segment_ids.shape

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = segment_ids[batch, query] == segment_ids[batch, key]
        return _is_visible(query, key, window) & same

    device = segment_ids.device
    return flex.create_block_mask(mask_mod, batch_size, None, length, length, device=device)


block_mask = functools.lru_cache(maxsize=16)(make_block_mask)


@functools.cache
def compiled_flex_attention() -> Any:
    """`flex_attention` compiled: without it all attention weights are stored."""
    return torch.compile(flex.flex_attention)


@functools.cache
def attention_device(device: Any) -> AttentionDevice:
    """What attention depends on, of a `torch.device`."""
    if device.type == "cpu":
        return AttentionDevice("cpu")
    if device.type != "cuda" or not torch.cuda.is_available():  # a fake tensor's device
        return AttentionDevice("gpu")
    has_triton = importlib.util.find_spec("triton") is not None
    return AttentionDevice("gpu", torch.cuda.get_device_capability(device), has_triton=has_triton)


def cached_attention(
    query: Tensor, layer: tuple[Tensor, ...], mask: Tensor, filled: Tensor
) -> Tensor:
    """Attention of new tokens on one layer's cache.

    On a CPU it is an operator of its own, which a trace does not look into: how much of the cache
    is filled is known only when it runs.

    Args:
        query: (B, N, T, H), already multiplied by the softmax scale.
        layer: keys and values (B, K, S, H); in int8 also their scales (B, K, S, 1).
        mask: (B, T, S) booleans.
        filled: () int32; no query attends to a position from there on.

    Returns:
        (B, N, T, H).
    """
    if attention_device(query.device).platform == "cpu":
        attended: Tensor = torch.ops.kgpt.cached_attention(query, list(layer), mask, filled)
        return attended
    keys, values = _dequantize(layer, query.dtype)
    groups = query.shape[1] // keys.shape[1]
    if groups > 1 and query.shape[2] == 1:
        return _attend_with_one(query, keys, values, mask)
    if groups > 1:  # with a mask no fused kernel of a GPU takes grouped heads
        keys, values = (x.repeat_interleave(groups, 1) for x in (keys, values))
    return F.scaled_dot_product_attention(query, keys, values, mask[:, None], scale=1.0)


def _attend_to_filled(query: Tensor, layer: list[Tensor], mask: Tensor, filled: Tensor) -> Tensor:
    """`cached_attention` on a CPU: it reads the filled positions alone."""
    length = int(filled)
    mask = mask[:, :, :length]
    keys, values = _dequantize([part[:, :, :length] for part in layer], query.dtype)
    if query.shape[2] == 1:
        return _attend_with_one(query, keys, values, mask)
    grouped = query.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(
        query, keys, values, mask[:, None], scale=1.0, enable_gqa=grouped
    ).contiguous()


_library = torch.library.Library("kgpt", "FRAGMENT")
_library.define(
    "cached_attention(Tensor query, Tensor[] layer, Tensor mask, Tensor filled) -> Tensor"
)
_library.impl("cached_attention", _attend_to_filled, "CPU")
_library.impl(
    "cached_attention", lambda query, layer, mask, filled: torch.empty_like(query), "Meta"
)


def _dequantize(layer: Any, dtype: Any) -> tuple[Tensor, Tensor]:
    """Keys and values as `dtype`."""
    keys, values, *scales = layer
    if scales:
        keys, values = (x * scale for x, scale in zip((keys, values), scales, strict=True))
    return keys.to(dtype), values.to(dtype)


def _attend_with_one(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """`cached_attention` for T = 1, where the fused kernel of a CPU is up to 4x slower."""
    grouped = query.view(len(query), keys.shape[1], -1, query.shape[3])  # (B, K, G, H)
    scores = (grouped @ keys.transpose(2, 3)).float()  # (B, K, G, S)
    weights = torch.softmax(torch.where(mask[:, None], scores, -1e30), dim=-1)
    return (weights.to(values.dtype) @ values).view(query.shape)


def cache_indices(start: Tensor, count: Tensor, length: Any, cache_len: Any) -> Any:
    """The cache position of each new token (B, T), and whether it is no padding (B, T)."""
    steps = torch.arange(length, device=start.device)
    return (start[:, None] + steps) % cache_len, steps < count[:, None]


def update_cache(cache: Tensor, new: Tensor, indices: Any) -> Tensor:
    """Store new (B, K, T, H), T at most S, in a cache (B, K, S, H), in place.

    Padding writes back what it finds: no shape depends on values, so that `fx_trace` can trace
    it and a GPU need not wait for the host.
    """
    slots, real = indices
    rows = torch.arange(len(cache), device=cache.device)[:, None]  # (B, 1)
    tokens = new.transpose(1, 2)  # (B, T, K, H): the two indices come first
    cache[rows, :, slots] = torch.where(real[:, :, None, None], tokens, cache[rows, :, slots])
    return cache
