"""Products with quantized weights in Keras's operations, for backends without kernels of their own.

The formats are those of `kgpt.model.quantization`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

Tensor = Any
INT8_MAX = 127
SMALLEST_ABSMAX = 1e-30  # of a token, which is divided by it


def int8_linear(
    int8_matmul: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    q: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """x (..., D) times a weight q (F, D) int8 with scale (F,), plus bias (F,): (..., F).

    Each token is rounded to int8 with a scale of its own (W8A8). Integers are summed exactly, so
    a token's result does not depend on its batch.
    """
    rows = ops.reshape(x, (-1, x.shape[-1]))  # (M, D)
    absmax = ops.max(ops.abs(rows), axis=-1, keepdims=True)
    absmax = ops.maximum(ops.cast(absmax, "float32"), SMALLEST_ABSMAX)
    codes = ops.cast(ops.round(rows * (INT8_MAX / absmax)), "int8")
    out = ops.cast(int8_matmul(codes, q), "float32") * (scale * (absmax / INT8_MAX))
    out = ops.cast(out, x.dtype)
    out = out if bias is None else out + bias
    return ops.reshape(out, (*ops.shape(x)[:-1], q.shape[0]))


def int4_linear(
    dense: Callable[..., Tensor],
    x: Tensor,
    q: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """x (..., D) times an int4 weight, bytes (F, D / 2) and scale (F, D / 32), plus bias (F,)."""
    return dense(x, ops.transpose(dequantize_int4(q, scale, x.dtype)), bias)


def dequantize_int8(q: Tensor, scale: Tensor, dtype: Any) -> Tensor:
    """The float weight (F, D) of q (F, D) int8 and scale (F,)."""
    return ops.cast(q, dtype) * ops.cast(scale, dtype)[:, None]


def dequantize_int4(q: Tensor, scale: Tensor, dtype: Any) -> Tensor:
    """The float weight (F, D) of bytes (F, D / 2) and scales (F, D / 32)."""
    outputs, groups = scale.shape
    pairs = ops.stack([ops.bitwise_and(q, 15), ops.right_shift(q, 4)], axis=-1)
    codes = ops.cast(ops.reshape(pairs, (outputs, groups, -1)), dtype) - 8
    return ops.reshape(codes * ops.cast(scale, dtype)[:, :, None], (outputs, -1))
