"""Several LoRA and DoRA adapters over one model, for inference: each row of a batch has its own.

The adapters of a `Linear` are stacked to A (N, in, R) and B (N, R, out), and each row of the batch
gathers the two matrices of its adapter (Chen et al., 2023, "Punica"). Adapter 0 is zeros: the base
model. N and R are fixed, so adapters are exchanged without compiling anything anew; smaller ranks
are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.model.adapters import linears_by_path, refresh

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT
    from kgpt.model.linear import Linear, WeightFormat

Tensor = Any


class AdapterMatrices(NamedTuple):
    """One adapter of one `Linear`: y = factor * (x W + (x A) B) + bias."""

    a: np.ndarray  # (in, R)
    b: np.ndarray  # (R, out), multiplied by the scaling
    factor: np.ndarray  # (out,), of DoRA: magnitude / norm(W + A B); ones for LoRA


class MultiLora:
    """The adapters of one `Linear`.

    Attributes:
        a: (N, in, R). b: (N, R, out). factor: (N, out), None where no adapter is DoRA.
    """

    def __init__(self, a: keras.Variable, b: keras.Variable, factor: keras.Variable | None) -> None:
        self.a, self.b, self.factor = a, b, factor

    def __call__(
        self, x: Tensor, weight: WeightFormat, bias: keras.Variable | None, adapter_ids: Tensor
    ) -> Tensor:
        """x (B, T, in) to (B, T, out), row i by adapter `adapter_ids[i]`."""
        a = ops.take(self.a, adapter_ids, axis=0)  # (B, in, R)
        b = ops.take(self.b, adapter_ids, axis=0)  # (B, R, out)
        update = ops.matmul(ops.matmul(x, a), b)  # (B, T, out)
        if self.factor is None:
            return weight.matmul(x, bias) + update
        factor = ops.take(self.factor, adapter_ids, axis=0)  # (B, out)
        out = (weight.matmul(x) + update) * factor[:, None]
        return out if bias is None else out + ops.convert_to_tensor(bias)

    def assign(self, index: int, matrices: AdapterMatrices | None) -> None:
        """Replace adapter `index`; None makes it the base model."""
        variables = (self.a, self.b, self.factor)
        for position, variable in enumerate(variables):
            if variable is None:
                continue
            off = np.float32(position == 2)  # a factor of 1
            value = np.full(variable.shape[1:], off) if matrices is None else matrices[position]
            row = ops.convert_to_tensor(value[None], variable.dtype)
            whole = ops.convert_to_tensor(variable.value)
            variable.assign(backend.update_row(whole, np.int32(index), row))


def attach_multi_lora(
    model: GPT, max_adapters: int, ranks: Mapping[str, int], dora: bool = False
) -> None:
    """Make room for `max_adapters` adapters in a model prepared for inference.

    Its KV caches have one more entry from then on: the adapter of each row; see `GPT.new_cache`.

    Args:
        ranks: R of each `Linear` that can be adapted, by path: "block_0/attention/qkv".
        dora: adapters may be DoRA.
    """
    linears = linears_by_path(model)
    for path, rank in ranks.items():
        linears[path].multi_lora = _build(linears[path], 1 + max_adapters, rank, dora)
    model.max_adapters = max_adapters
    refresh(model)


def _build(linear: Linear, num_adapters: int, rank: int, dora: bool) -> MultiLora:
    """Variables of the layer of `linear`, in which every adapter is the base model."""
    layer, (inputs, outputs) = linear.layer, linear.shape
    shapes = {"a": (inputs, rank), "b": (rank, outputs)} | ({"factor": (outputs,)} if dora else {})
    with keras_internals.unlocked(layer), keras_internals.scope_of(layer):
        variables = [
            layer.add_weight(
                name=f"{linear.name}_multi_lora_{name}",
                shape=(num_adapters, *shape),
                initializer="ones" if name == "factor" else "zeros",
                trainable=False,
            )
            for name, shape in shapes.items()
        ]
    a, b, *factor = variables
    return MultiLora(a, b, factor[0] if factor else None)


def assign_adapter_matrices(
    model: GPT, index: int, matrices: Mapping[str, AdapterMatrices]
) -> None:
    """Make adapter `index` of a model what `matrices` say, by path of each `Linear`."""
    for path, linear in linears_by_path(model).items():
        if linear.multi_lora is not None:
            linear.multi_lora.assign(index, matrices.get(path))
