"""int4 weights for XLA on a CPU, which has integer products of 8 bits alone.

Each product widens the weight to int8 in blocks that stay in the cache: w = scale * q of a group is
rounded to a scale of its output, by a 16-bit multiplication, which XLA vectorises. In memory the
weight stays packed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from keras import ops

from kgpt.backend import quantized

Tensor = Any
Product = Callable[[Tensor, Tensor | None], Tensor]  # (x (..., D), bias (F,)) to (..., F)
Int8Matmul = Callable[[Tensor, Tensor], Tensor]

LARGEST_CODE = 8  # in magnitude, of four bits
FRACTION_BITS = 8  # of a ratio: LARGEST_CODE * 127 / LARGEST_CODE * 2**8 + 2**7 fits in 16 bits


def prepack_int4(
    int8_matmul: Int8Matmul, q: Tensor, scale: Tensor, store: Callable[[str, Tensor], Any]
) -> Product:
    """The product with an int4 weight, bytes (F, D / 2) and scales (F, D / 32).

    Tokens are rounded to int8 as for an int8 weight, and integers are summed exactly.
    """
    scale = ops.cast(scale, "float32")
    output_scale = ops.max(scale, axis=1) * (LARGEST_CODE / quantized.INT8_MAX)  # (F,)
    ratio = ops.round(scale / output_scale[:, None] * 2**FRACTION_BITS)
    # As bytes whose halves are numbers in two's complement.
    parts = (
        store("codes", ops.cast(ops.bitwise_xor(q, 0x88), "int8")),
        store("ratio", ops.cast(ratio, "int16")),
        store("output_scale", output_scale),
    )

    def multiply(x: Tensor, bias: Tensor | None = None) -> Tensor:
        codes, ratio, output_scale = (ops.convert_to_tensor(part) for part in parts)
        matmul = partial(_matmul, int8_matmul, ratio)
        return quantized.int8_linear(matmul, x, codes, output_scale, bias)

    return multiply


def _matmul(int8_matmul: Int8Matmul, ratio: Tensor, x: Tensor, codes: Tensor) -> Tensor:
    """x (M, D) int8 times the transpose of a weight (F, D), codes (F, D / 2), as int32 (M, F)."""
    four = ops.cast(4, "int8")
    low = ops.right_shift(ops.left_shift(codes, four), four)  # of even inputs, with its sign
    high = ops.right_shift(codes, four)
    even, odd = x[:, 0::2], x[:, 1::2]
    return int8_matmul(even, _widen(low, ratio)) + int8_matmul(odd, _widen(high, ratio))


def _widen(q: Tensor, ratio: Tensor) -> Tensor:
    """q (F, D / 2) int8 times the ratio (F, D / 32) of each group, rounded to int8."""
    outputs, groups = ratio.shape
    product = ops.reshape(ops.cast(q, "int16"), (outputs, groups, -1)) * ratio[:, :, None]
    half = ops.cast(1 << (FRACTION_BITS - 1), "int16")
    rounded = ops.right_shift(product + half, ops.cast(FRACTION_BITS, "int16"))
    return ops.reshape(ops.cast(rounded, "int8"), (outputs, -1))
