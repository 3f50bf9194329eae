"""Bottleneck adapters: a small MLP with a residual on the output of frozen layers.

y = h + s * activation(h A) B, h being the output of attention or of the MLP of a block (Houlsby et
al., 2019), or of the MLP alone (Pfeiffer et al., 2020). A and B are float32 whatever the type of
the frozen weights. They are not linear in h, so they cannot be merged into a weight.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config.bottleneck import BottleneckConfig
from kgpt.model.adapters import (
    add_adapter_weight,
    freeze_for_adapters,
    linears_by_path,
    refresh,
)
from kgpt.model.initializers import Normal

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT
    from kgpt.model.linear import Linear, WeightFormat

Tensor = Any

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": ops.relu,
    "gelu": lambda x: ops.gelu(x, approximate=False),
    "silu": ops.silu,
    "tanh": ops.tanh,
}
PLACES = {"houlsby": ("attention/output", "mlp/down"), "pfeiffer": ("mlp/down",)}


class Bottleneck:
    """The adapter on the output of one `Linear`.

    Args:
        down: A (D, size). up: B (size, D).
        salt: a number that makes its dropout differ from that of the block's other products.
    """

    def __init__(
        self, down: keras.Variable, up: keras.Variable, config: BottleneckConfig, salt: int
    ) -> None:
        self.down, self.up, self.config = down, up, config
        self.salt = backend.constant(np.array([0, salt], "int32"))

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.down, self.up]

    @property
    def structure(self) -> tuple[Any, ...]:
        """Equal for adapters that differ in the values of their variables alone."""
        return (self.config.activation, self.config.scaling, self.config.dropout)

    def __call__(
        self,
        x: Tensor,
        weight: WeightFormat,
        bias: keras.Variable | None,
        key: Tensor | None = None,
    ) -> Tensor:
        """x (..., in) to (..., D); `key` (2,) switches dropout on."""
        hidden = weight.matmul(x, bias)  # (..., D)
        dropped = hidden
        if key is not None and self.config.dropout:
            rate = self.config.dropout
            dropped = backend.dropout(hidden, rate, ops.bitwise_xor(key, self.salt))
        narrow = backend.dense(dropped, ops.cast(self.down, hidden.dtype))  # (..., size)
        narrow = ACTIVATIONS[self.config.activation](narrow)
        up = ops.multiply(self.up, self.config.scaling)
        return hidden + backend.dense(narrow, ops.cast(up, hidden.dtype))


def attach_bottlenecks(
    model: GPT, config: BottleneckConfig, seed: int = 0, trains: bool = True
) -> None:
    """Freeze a model and give it new bottleneck adapters, which change nothing yet.

    A is noise of deviation 0.02, B is zero.

    Args:
        trains: as for `freeze_for_adapters`.

    Raises:
        UsageError: the model has adapters, or weights in a format for inference only.
    """
    freeze_for_adapters(model, trains)
    for path, linear in linears_by_path(model).items():
        if path.partition("/")[2] in PLACES[config.placement]:
            linear.adapter = _build(linear, path, config, seed)
    for block in model.blocks:
        block.adapter_drop.rate = config.dropout
    refresh(model)


def _build(linear: Linear, path: str, config: BottleneckConfig, seed: int) -> Bottleneck:
    """The adapter of one `Linear`, its variables being created in its layer."""
    layer, width, noise = linear.layer, linear.shape[1], Normal(0.02, seed).named(path)
    down, up = (f"{linear.name}_adapter_{name}" for name in ("down", "up"))
    salt = zlib.crc32(f"{layer.name}/{linear.name}".encode()) & 0x7FFFFFFF
    return Bottleneck(
        add_adapter_weight(layer, down, (width, config.size), noise),
        add_adapter_weight(layer, up, (config.size, width), "zeros"),
        config,
        salt,
    )
