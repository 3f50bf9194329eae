"""Linear and embedding parameters that own their weight format.

- `FloatWeight`: (in, out), as trained.
- `TransposedWeight`: (out, in) or prepacked by the matmul library; faster for small batches.
- `Int8Weight`: int8 with per-channel scales; activations are quantized per token (W8A8).
- `Int4Weight`: int4 with group-wise scales; embeddings and head are int8.

`Linear` and `Embedding` are parts of a Keras layer, not layers: their variables belong to the
layer that builds them, so variable paths stay "block_0/attention/qkv" in every format. A format
set before building is applied as each weight is created: the float weights of one part at a time
are in memory, or none where the initializer reads quantized weights. A new format is one class
with `create` and `matmul`, and an entry in `FORMATS`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.model.initializers import Normal
from kgpt.model.quantized_weight import (
    Int4Weight,
    Int8Weight,
    QuantizedMatrix,
    QuantizedWeight,
    frozen_variable,
)

if TYPE_CHECKING:
    from kgpt.model.multi_lora import MultiLora

Tensor = Any
FormatName = Literal["transposed", "int8", "int4"]


class WeightFormat(Protocol):
    """How the weight of one matrix product is stored."""

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x (..., in) times the weight, plus bias (out,): (..., out)."""


class LinearAdapter(Protocol):
    """Trained weights beside the frozen one of a `Linear`: `Lora` or `Bottleneck`."""

    @property
    def variables(self) -> list[keras.Variable]: ...

    @property
    def structure(self) -> tuple[Any, ...]: ...

    def __call__(
        self, x: Tensor, weight: Any, bias: keras.Variable | None, key: Tensor | None = None
    ) -> Tensor: ...


class FloatWeight:
    """A trainable variable: (in, out), or (out, in) for a `table` such as the head."""

    def __init__(self, variable: keras.Variable, table: bool = False) -> None:
        self.variable, self.table = variable, table

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        inputs = (x,) if bias is None else (x, bias)
        return backend.distribution.with_gathered(self._product, self.variable, *inputs)

    def _product(self, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return backend.dense(x, ops.transpose(weight) if self.table else weight, bias)

    def squared_norms(self) -> Tensor:
        """The sum of the squares of each output's weights: (out,) float32."""
        weight = ops.cast(ops.stop_gradient(self.variable), "float32")
        return ops.sum(ops.square(weight), axis=1 if self.table else 0)

    def as_table(self) -> Tensor:
        """The weight of a head, (V, D)."""
        return ops.convert_to_tensor(backend.distribution.gather_parameter(self.variable))

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` (...) of a table (V, D): (..., D)."""
        return ops.take(backend.distribution.gather_parameter(self.variable), ids, axis=0)


class TransposedWeight:
    """A float weight (out, in), or what `backend.prepack_weight` makes of it.

    About 25% faster than (in, out) for the few tokens of a decode step.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @classmethod
    def create(cls, layer: keras.Layer, name: str, value: Tensor, table: bool) -> TransposedWeight:
        """From `value` (in, out), or (out, in) for a `table`."""
        transposed = value if table else ops.transpose(value)
        packed = backend.prepack_weight(transposed)
        if packed is None:
            packed = frozen_variable(layer, f"{name}_transposed", transposed, layer.variable_dtype)
        return cls(packed)

    def matmul(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = ops.convert_to_tensor(self.weight)
        out = backend.matmul_nt(ops.reshape(x, (-1, weight.shape[1])), weight)  # (M, out)
        out = out if bias is None else out + ops.convert_to_tensor(bias)
        return ops.reshape(out, (*ops.shape(x)[:-1], weight.shape[0]))


FORMATS: dict[str, Any] = {
    "transposed": TransposedWeight,
    "int8": Int8Weight,
    "int4": Int4Weight,
}


class Parameter:
    """A named matrix of a layer and its format.

    Args:
        name: of its variable, and in messages.
        initializer: of the float weights.
        table: the matrix is (out, in): an embedding or a head.
    """

    def __init__(self, name: str, initializer: Any, table: bool = False) -> None:
        self.name, self.initializer, self.table = name, initializer, table
        self.format: FormatName | None = None
        self.weight: Any = None
        self._layer: keras.Layer | None = None
        self.shape = (0, 0)

    @property
    def layer(self) -> keras.Layer:
        """The layer that it belongs to."""
        assert self._layer is not None, f"{self.name} is not built"
        return self._layer

    def build(self, layer: keras.Layer, shape: tuple[int, int]) -> None:
        """Create the weight as variables of `layer`, in the format set by then."""
        self._layer, self.shape = layer, shape
        if self.format is None:
            variable = layer.add_weight(name=self.name, shape=shape, initializer=self.initializer)
            self.weight = FloatWeight(variable, self.table)
        elif quantized := self._read_quantized(self.format):
            self.weight = FORMATS[self.format].create_quantized(layer, self.name, quantized)
        else:
            value = self.initializer(shape, layer.variable_dtype)
            self.weight = FORMATS[self.format].create(layer, self.name, value, self.table)

    def _read_quantized(self, weight_format: FormatName) -> QuantizedMatrix | None:
        """The weight as the initializer has it in this format; None if it has floats alone."""
        if weight_format == "transposed" or not isinstance(self.initializer, Normal):
            return None
        return self.initializer.quantized(weight_format)

    def convert(self, to: FormatName) -> None:
        """Store the weight as `to` from now on; the float variable is released."""
        self.format = to
        if isinstance(self.weight, FloatWeight):
            variable, self.weight = self.weight.variable, None
            keras_internals.untrack_variable(self.layer, variable)
            value = ops.convert_to_tensor(variable)
            self.weight = FORMATS[to].create(self.layer, self.name, value, self.table)

    def prepack(self) -> None:
        """Put a quantized weight into the layout of the matmul library, for inference alone."""
        if not isinstance(self.weight, QuantizedWeight):
            return
        packed = self.weight.prepacked(self._store)
        if packed is not None:
            self._release(self.weight)
            self.weight = packed

    def _store(self, name: str, value: Tensor) -> keras.Variable:
        dtype = keras.backend.standardize_dtype(value.dtype)
        return frozen_variable(self.layer, f"{self.name}_{name}", value, dtype)

    def _release(self, weight: QuantizedWeight) -> None:
        for variable in (weight.q, weight.scale):
            keras_internals.untrack_variable(self.layer, variable)

    @property
    def variable(self) -> keras.Variable | None:
        """The trainable variable; None in other formats."""
        return self.weight.variable if isinstance(self.weight, FloatWeight) else None


class Linear(Parameter):
    """x (..., in) @ kernel (in, out) + bias (out,): (..., out).

    Attributes:
        adapter: what is trained beside its weight, None without any; see `model/adapters.py`.
        multi_lora: adapters chosen per row, for inference; see `model/multi_lora.py`.
    """

    bias: keras.Variable | None = None
    adapter: LinearAdapter | None = None
    multi_lora: MultiLora | None = None

    def add_bias(self, layer: keras.Layer, units: int) -> None:
        """Create the bias as a variable of `layer`."""
        self.bias = layer.add_weight(name=f"{self.name}_bias", shape=(units,), initializer="zeros")

    def __call__(
        self, x: Tensor, key: Tensor | None = None, adapter_ids: Tensor | None = None
    ) -> Tensor:
        """`key` (2,) switches the dropout of the adapters on; `adapter_ids` (B,) chooses one."""
        if adapter_ids is not None and self.multi_lora is not None:
            return self.multi_lora(x, self.weight, self.bias, adapter_ids)
        if self.adapter is not None:
            return self.adapter(x, self.weight, self.bias, key)
        return self.weight.matmul(x, self.bias)


class Embedding(Parameter):
    """Rows of a table (V, D) by id: (...) integers to (..., D)."""

    def __init__(self, name: str, initializer: Any) -> None:
        super().__init__(name, initializer, table=True)

    def __call__(self, ids: Tensor) -> Tensor:
        return self.weight.rows(ids)


class Unembedding(Linear):
    """Hidden states (..., D) to a score for each row of a table (V, D): (..., V).

    Args:
        tied: the embedding whose table it shares. A prepacked table exists beside the embedding,
            which looks rows up one by one.
    """

    def __init__(self, name: str, initializer: Any, tied: Embedding | None = None) -> None:
        super().__init__(name, initializer, table=True)
        self.tied = tied

    def build(self, layer: keras.Layer, shape: tuple[int, int]) -> None:
        if self.tied is None:
            super().build(layer, shape)
        else:
            self._layer, self.weight = layer, self.tied.weight
            if self.format is not None:
                self.convert(self.format)

    def _release(self, weight: QuantizedWeight) -> None:
        if self.tied is None:
            super()._release(weight)

    def convert(self, to: FormatName) -> None:
        if self.tied is None:
            super().convert(to)
            return
        self.format = to
        if to != "transposed" or self.tied.variable is None:
            self.weight = self.tied.weight
        elif self.tied.weight is not None:
            table = self.tied.variable
            packed = backend.prepack_weight(table)
            self.weight = TransposedWeight(table if packed is None else packed)
