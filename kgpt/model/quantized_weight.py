"""Quantized weights in memory: `Int8Weight` and `Int4Weight`, for inference and below adapters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.backend.quantized import dequantize_int4, dequantize_int8
from kgpt.model.quantization import GROUP_SIZE, quantize_int4, quantize_int8

Tensor = Any
Store = Callable[[str, Tensor], Any]


def _as_it_is(name: str, tensor: Tensor) -> Tensor:
    return tensor


class QuantizedMatrix(NamedTuple):
    """A matrix (out, in) as `quantize_int8` or `quantize_int4` returns it."""

    q: np.ndarray
    scale: np.ndarray


class PrepackedWeight:
    """A quantized weight that only a matmul library reads.

    Args:
        product: as `WeightFormat.matmul`, but for the bias, which is a tensor.
    """

    def __init__(self, product: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        self.product = product

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `WeightFormat.matmul`."""
        return self.product(x, None if bias is None else ops.convert_to_tensor(bias))


class QuantizedWeight(ABC):
    """A weight as quantized values and scales.

    Args:
        q, scale: as `kgpt.model.quantization` describes; the scale of int8 is (out,).

    Attributes:
        quantizes_activations: false in a model that trains adapters: each product then
            dequantizes the weight, has a gradient for its input, and keeps nothing for it.
    """

    def __init__(self, q: Tensor, scale: Tensor) -> None:
        self.q, self.scale = q, scale
        self.quantizes_activations = True

    @abstractmethod
    def _linear(self, x: Tensor, q: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """The product for inference."""

    @abstractmethod
    def _dequantized(self, q: Tensor, scale: Tensor, dtype: Any) -> Tensor:
        """The weight as float, (out, in)."""

    @abstractmethod
    def prepacked(self, store: Store = _as_it_is) -> PrepackedWeight | None:
        """The weight in the layout of a matmul library, for inference; None if it has none.

        `store(name, tensor)` keeps a part of it.
        """

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `WeightFormat.matmul`."""
        if not self.quantizes_activations:
            return self._matmul_dequantized(x, bias)
        q, scale = ops.convert_to_tensor(self.q), ops.convert_to_tensor(self.scale)
        bias = None if bias is None else ops.convert_to_tensor(bias)
        return self._linear(x, q, scale, bias)

    def _matmul_dequantized(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`matmul` by the weight as float, which the backward pass dequantizes once more."""
        with keras_internals.no_autocast():  # a cast made here would leak from JAX's checkpoint
            q, scale = ops.convert_to_tensor(self.q), ops.convert_to_tensor(self.scale)

        def product(x: Tensor) -> tuple[Tensor, Any]:
            def pullback(upstream: Tensor) -> Tensor:
                return backend.dense(upstream, self._dequantized(q, scale, x.dtype))

            weight = self._dequantized(q, scale, x.dtype)
            return backend.dense(x, ops.transpose(weight)), pullback

        out = backend.custom_gradient(product)(x)
        return out if bias is None else out + ops.convert_to_tensor(bias)

    def as_table(self) -> Tensor:
        """The weight as float, (out, in): of a head (V, D)."""
        scale = ops.convert_to_tensor(self.scale)
        dtype = keras.backend.standardize_dtype(scale.dtype)
        dtype = "float32" if dtype == "float16" else dtype
        return self._dequantized(ops.convert_to_tensor(self.q), scale, dtype)

    def squared_norms(self) -> Tensor:
        """The sum of the squares of each output's weights: (out,) float32."""
        return ops.sum(ops.square(ops.cast(self.as_table(), "float32")), axis=1)


class Int8Weight(QuantizedWeight):
    """w[o, i] = scale[o] * q[o, i], q being (out, in) int8 and scale (out,) float.

    In inference activations are quantized per token (W8A8).
    """

    @classmethod
    def create(cls, layer: keras.Layer, name: str, value: Tensor, table: bool) -> Int8Weight:
        """From `value` (in, out), or (out, in) for a `table`."""
        return cls.create_quantized(
            layer, name, QuantizedMatrix(*quantize_int8(_host(value, table)))
        )

    @classmethod
    def create_quantized(cls, layer: keras.Layer, name: str, value: QuantizedMatrix) -> Int8Weight:
        """From what `quantize_int8` returns."""
        return cls(
            frozen_variable(layer, f"{name}_q", value.q, "int8"),
            frozen_variable(layer, f"{name}_scale", value.scale[:, 0], layer.variable_dtype),
        )

    def _linear(self, x: Tensor, q: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return backend.int8_linear(x, q, scale, bias)

    def _dequantized(self, q: Tensor, scale: Tensor, dtype: Any) -> Tensor:
        return dequantize_int8(q, scale, dtype)

    def prepacked(self, store: Store = _as_it_is) -> PrepackedWeight | None:
        return _prepacked(backend.prepack_int8, self, store)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` (...) of a table (V, D): (..., D)."""
        scale = ops.take(self.scale, ids, axis=0)
        return ops.cast(ops.take(self.q, ids, axis=0), scale.dtype) * scale[..., None]


class Int4Weight(QuantizedWeight):
    """w[o, i] = scale[o, i / 32] * q[o, i]: two q a byte, (out, in / 2), scale (out, in / 32).

    Activations are not rounded to integers, unless the weight is prepacked for XLA on a CPU.
    """

    @classmethod
    def create(
        cls, layer: keras.Layer, name: str, value: Tensor, table: bool
    ) -> Int4Weight | Int8Weight:
        """From `value` (in, out); an int8 weight of a `table`, or if `in` is no multiple of 32."""
        if table or value.shape[0] % GROUP_SIZE:
            return Int8Weight.create(layer, name, value, table)
        return cls.create_quantized(
            layer, name, QuantizedMatrix(*quantize_int4(_host(value, table)))
        )

    @classmethod
    def create_quantized(
        cls, layer: keras.Layer, name: str, value: QuantizedMatrix
    ) -> Int4Weight | Int8Weight:
        """From what `quantize_int4` returns; an int8 weight from what `quantize_int8` returns."""
        if value.q.dtype == np.int8:
            return Int8Weight.create_quantized(layer, name, value)
        return cls(
            frozen_variable(layer, f"{name}_q", value.q, "uint8"),
            frozen_variable(layer, f"{name}_group_scale", value.scale, "float16"),
        )

    def _linear(self, x: Tensor, q: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        return backend.int4_linear(x, q, scale, bias)

    def _dequantized(self, q: Tensor, scale: Tensor, dtype: Any) -> Tensor:
        return dequantize_int4(q, scale, dtype)

    def prepacked(self, store: Store = _as_it_is) -> PrepackedWeight | None:
        return _prepacked(backend.prepack_int4, self, store)


def _prepacked(
    prepack: Callable[..., Any], weight: QuantizedWeight, store: Store
) -> PrepackedWeight | None:
    parts = (ops.convert_to_tensor(part) for part in (weight.q, weight.scale))
    product = prepack(*parts, store)
    return None if product is None else PrepackedWeight(product)


def _host(value: Tensor, table: bool) -> np.ndarray:
    """`value` (in, out), or (out, in) for a `table`, as float32 (out, in) in host memory."""
    matrix: np.ndarray = backend.to_host(value).astype("float32", copy=False)
    return matrix if table else matrix.T


def frozen_variable(layer: keras.Layer, name: str, value: Tensor, dtype: str) -> keras.Variable:
    """A new variable of a layer, which may be built already, that is not trained."""
    with keras_internals.unlocked(layer), keras.name_scope(layer.name):
        return layer.add_weight(
            name=name,
            shape=value.shape,
            dtype=dtype,
            trainable=False,
            initializer=lambda shape, dtype: ops.convert_to_tensor(value, dtype),
        )
