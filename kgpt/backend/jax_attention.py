"""Causal attention on JAX: flash attention of cuDNN on a GPU, XLA elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kgpt.backend.attention import attention_with_dropout, chunked_causal_attention
from kgpt.backend.attention_choice import (
    AttentionCall,
    AttentionDevice,
    effective_window,
    jax_attention,
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
    length = query.shape[1]
    call = AttentionCall(
        str(query.dtype), query.shape[-1], length,
        dropout=drop is not None, packed=segment_ids is not None,
    )  # fmt: skip
    chosen = jax_attention(attention_device(), call)
    if chosen == "dropout":
        assert drop is not None
        return attention_with_dropout(query, key, value, drop, window, segment_ids)
    if chosen == "cudnn":
        window = effective_window(window, length)
        return _cudnn_attention(query, key, value, window, segment_ids)
    return chunked_causal_attention(query, key, value, window, segment_ids)


def _cudnn_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    mask = None
    if segment_ids is not None:
        mask = jnp.equal(segment_ids[:, None, :, None], segment_ids[:, None, None, :])
    local = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        query, key, value, mask=mask, scale=1.0, is_causal=True, local_window_size=local,
        implementation="cudnn",
    )  # fmt: skip


@functools.cache
def attention_device() -> AttentionDevice:
    """The device that JAX computes on."""
    platform = jax.default_backend()
    if platform != "gpu":
        return AttentionDevice(platform)
    return AttentionDevice(
        platform, _compute_capability(jax.local_devices()[0]), has_cudnn=_has_cudnn()
    )


def _compute_capability(device: Any) -> tuple[int, int] | None:
    """(8, 0) for "8.0"; None for a GPU of another maker than NVIDIA."""
    major, _, minor = str(getattr(device, "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _has_cudnn() -> bool:
    """Does JAX accept a call of cuDNN's attention? It looks for the library while tracing."""
    x = jax.ShapeDtypeStruct((1, 64, 1, 64), jnp.bfloat16)  # (B, T, N, H)
    try:
        jax.eval_shape(lambda x: _cudnn_attention(x, x, x, None), x)
    except Exception:  # whichever JAX raises, XLA's attention works
        return False
    return True
