"""Matrices held otherwise than they were trained, and products with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

LARGEST = 127
Product = Callable[[Any, Any], Any]  # x (M, in) times the transpose of w (out, in): (M, out)


class TransposedWeight:
    """A matrix (in, out) held as its transpose.

    With the weights of each output together, a product with few rows, which is what writing text
    is, takes a quarter less time.

    Args:
        transpose: (out, in) variable, or what `backend.prepack_weight` made of one.
    """

    def __init__(self, transpose: Any):
        self.transpose = transpose

    def dense(self, x: Any, bias: Any, product: Product) -> Any:
        """x (..., in) times the matrix, plus bias (out,); see `kgpt.backend.dense`."""
        transpose = ops.convert_to_tensor(self.transpose)
        out = product(ops.reshape(x, (-1, transpose.shape[1])), transpose)
        out = out if bias is None else out + ops.convert_to_tensor(bias)
        return ops.reshape(out, (*ops.shape(x)[:-1], transpose.shape[0]))


class Int8Weight:
    """A matrix (in, out) as w[i, o] = scale[o] * q[o, i].

    Args:
        q: (out, in) int8 variable.
        scale: (out,) float variable.
    """

    def __init__(self, q: Any, scale: Any):
        self.q, self.scale = q, scale

    def dense(self, x: Any, bias: Any, product: Product) -> Any:
        """x (..., in) times the matrix, plus bias (out,); see `kgpt.backend.dense`.

        Each row of x is rounded to 8 bits by a scale of its own, and `product` sums integers: so
        a row's result does not depend on what other rows hold, not by a bit.
        """
        q, scale = ops.convert_to_tensor(self.q), ops.convert_to_tensor(self.scale)
        rows = ops.reshape(x, (-1, q.shape[1]))
        largest = ops.max(ops.abs(rows), axis=-1, keepdims=True)
        largest = ops.maximum(ops.cast(largest, "float32"), 1e-30)
        codes = ops.cast(ops.round(rows * (LARGEST / largest)), "int8")
        out = ops.cast(product(codes, q), "float32") * (scale * (largest / LARGEST))
        out = ops.cast(out, x.dtype)
        out = out if bias is None else out + ops.convert_to_tensor(bias)
        return ops.reshape(out, (*ops.shape(x)[:-1], q.shape[0]))
