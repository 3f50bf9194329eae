"""LoRA and DoRA: trainable low-rank matrices beside frozen weights.

- LoRA (Hu et al., 2021): y = x W + s (x A) B, with s = alpha / rank, or alpha / sqrt(rank).
- DoRA (Liu et al., 2024): y = m / norm(W + s A B) * (x W + s (x A) B), with a norm and a trained
  magnitude m for each output. The norm is a constant for the gradient (section 4.3 there).

One `Linear` may compute several modules of a model in Hugging Face's format, such as q, k and v,
each with an adapter of its own: `Adapter` is one of them, `Lora` all of a `Linear`. Their matrices
are put together to one A (in, R) and one B (R, out), so a `Linear` with adapters is three products.
A and B are float32 whatever the type of the frozen weights.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.model.adapters import (
    add_adapter_weight,
    freeze_for_adapters,
    linears_by_path,
    refresh,
)
from kgpt.model.gpt import GPT
from kgpt.model.initializers import Normal
from kgpt.model.linear import FloatWeight, Linear
from kgpt.model.quantized_weight import QuantizedWeight

Tensor = Any


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter that a model is given.

    Attributes:
        module: of Hugging Face's format, such as "model.layers.0.self_attn.q_proj".
        linear: path of the `Linear` that computes it, such as "block_0/attention/qkv".
        start, width: the columns of that product that are the module's.
        rank: columns of A, rows of B.
        scaling: factor on its output.
        dora: whether it has a magnitude.
    """

    module: str
    linear: str
    start: int
    width: int
    rank: int
    scaling: float
    dora: bool = False


@dataclass(frozen=True)
class Adapter:
    """The variables of one adapter: A (in, rank), B (rank, width) and magnitude (width,)."""

    spec: AdapterSpec
    a: keras.Variable
    b: keras.Variable
    magnitude: keras.Variable | None

    @property
    def variables(self) -> list[keras.Variable]:
        return [v for v in (self.a, self.b, self.magnitude) if v is not None]


class Lora:
    """The adapters of one `Linear` of `out` outputs, in the order of their columns.

    Args:
        dropout: rate on the input of the adapters.
        salt: a number that makes its dropout differ from that of the block's other products.
        compute_dtype: of the products.
    """

    def __init__(
        self, adapters: list[Adapter], out: int, dropout: float, salt: int, compute_dtype: str
    ) -> None:
        self.adapters, self.out, self.dropout = adapters, out, dropout
        self.compute_dtype = compute_dtype
        self.salt = backend.constant(np.array([0, salt], "int32"))

    def __call__(
        self,
        x: Tensor,
        weight: FloatWeight | QuantizedWeight,
        bias: keras.Variable | None,
        key: Tensor | None = None,
    ) -> Tensor:
        """x (..., in) to (..., out); `key` (2,) switches dropout on."""
        a, b = self.matrices()
        dropped = x
        if key is not None and self.dropout:
            dropped = backend.dropout(x, self.dropout, ops.bitwise_xor(key, self.salt))
        low_rank = backend.dense(dropped, ops.cast(a, x.dtype))  # (..., R)
        update = backend.dense(low_rank, ops.cast(b, x.dtype))  # (..., out)
        if not self.has_magnitudes:
            return weight.matmul(x, bias) + update
        out = (weight.matmul(x) + update) * ops.cast(self.dora_factor(weight, a, b), x.dtype)
        return out if bias is None else out + ops.convert_to_tensor(bias)

    @property
    def variables(self) -> list[keras.Variable]:
        return [variable for adapter in self.adapters for variable in adapter.variables]

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for adapters that differ in the values of their variables alone."""
        specs = (adapter.spec for adapter in self.adapters)
        return tuple((spec.rank, spec.start, spec.scaling) for spec in specs)

    @property
    def has_magnitudes(self) -> bool:
        return any(adapter.magnitude is not None for adapter in self.adapters)

    def matrices(self) -> tuple[Tensor, Tensor]:
        """A (in, R) and scaling * B (R, out), R being the sum of the ranks."""
        rows = [self._across(a.spec, ops.multiply(a.b, a.spec.scaling)) for a in self.adapters]
        columns = [ops.convert_to_tensor(adapter.a) for adapter in self.adapters]
        if len(rows) == 1:
            return columns[0], rows[0]
        return ops.concatenate(columns, axis=1), ops.concatenate(rows, axis=0)

    def _across(self, spec: AdapterSpec, b: Tensor) -> Tensor:
        """B (rank, width) of one adapter with zeros for all other outputs: (rank, out)."""
        after = self.out - spec.start - spec.width
        return ops.pad(b, ((0, 0), (spec.start, after))) if spec.start or after else b

    def dora_factor(self, weight: FloatWeight | QuantizedWeight, a: Tensor, b: Tensor) -> Tensor:
        """m / norm(W + A B) of each output, 1 where there is no magnitude: (out,) float32.

        norm(W + A B)^2 = norm(W)^2 + 2 (A^T W) . B + norm(A B)^2 needs no matrix (in, out).
        """
        a, b = ops.stop_gradient(a), ops.stop_gradient(b)
        cross = weight.matmul(ops.cast(ops.transpose(a), self.compute_dtype))  # (R, out)
        gram_b = ops.matmul(ops.matmul(ops.transpose(a), a), b)  # (R, out)
        squares = ops.sum(b * (2 * ops.cast(cross, "float32") + gram_b), axis=0)
        norms = ops.stop_gradient(ops.sqrt(squares + weight.squared_norms()))
        parts, end = [], 0
        for adapter in self.adapters:
            start, stop = adapter.spec.start, adapter.spec.start + adapter.spec.width
            parts.append(norms[end:start])
            parts.append(norms[start:stop] if adapter.magnitude is None else adapter.magnitude)
            end = stop
        return ops.concatenate([*parts, norms[end:]], axis=0) / norms


def attach_adapters(
    model: GPT, specs: Iterable[AdapterSpec], dropout: float = 0.0, seed: int = 0
) -> None:
    """Freeze a model and give it new adapters, which change nothing yet; then compile it.

    A is noise of variance 1 / (3 in), as in PEFT, B is zero, a magnitude is the norm of a weight.

    Raises:
        UsageError: the model has adapters, or weights in a format for inference only.
    """
    freeze_for_adapters(model)
    linears = linears_by_path(model)
    for path, of_linear in _by_linear(specs).items():
        linears[path].adapter = _build(linears[path], of_linear, dropout, seed)
    for block in model.blocks:
        block.adapter_drop.rate = dropout
    refresh(model)


def _by_linear(specs: Iterable[AdapterSpec]) -> dict[str, list[AdapterSpec]]:
    """The specs of each `Linear`, by the order of their columns."""
    found: dict[str, list[AdapterSpec]] = {}
    for spec in sorted(specs, key=lambda spec: spec.start):
        found.setdefault(spec.linear, []).append(spec)
    return found


def _build(linear: Linear, specs: list[AdapterSpec], dropout: float, seed: int) -> Lora:
    """The adapters of one `Linear`, their variables being created in its layer."""
    layer, inputs, outputs = linear.layer, *linear.shape
    noise = Normal(1 / math.sqrt(3 * inputs), seed)
    norms = ops.sqrt(linear.weight.squared_norms()) if specs[0].dora else None
    adapters = []
    for spec in specs:
        name = spec.module.rpartition(".")[2]
        a_init = noise.named(spec.module)
        a = add_adapter_weight(layer, f"{name}_lora_a", (inputs, spec.rank), a_init)
        b = add_adapter_weight(layer, f"{name}_lora_b", (spec.rank, spec.width), "zeros")
        magnitude = None
        if norms is not None:
            part = norms[spec.start : spec.start + spec.width]
            initializer = lambda shape, dtype, part=part: part  # noqa: E731
            magnitude = add_adapter_weight(
                layer, f"{name}_lora_magnitude", (spec.width,), initializer
            )
        adapters.append(Adapter(spec, a, b, magnitude))
    salt = zlib.crc32(f"{layer.name}/{linear.name}".encode()) & 0x7FFFFFFF
    return Lora(adapters, outputs, dropout, salt, layer.compute_dtype)
