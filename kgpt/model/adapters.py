"""What all kinds of adapters share: the model's own weights are frozen, new ones are beside them.

- LoRA and DoRA (`model/lora.py`) and bottleneck adapters (`model/bottleneck.py`) change what a
  `Linear` computes: they are its `adapter`.
- A prefix (`model/prefix.py`) is more keys and values for attention: its `prefix`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.errors import UsageError
from kgpt.model.linear import FloatWeight, Linear
from kgpt.model.quantized_weight import QuantizedWeight

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT


def linears_by_path(model: GPT) -> dict[str, Linear]:
    """The matrix products of a model's blocks by path: "block_0/attention/qkv"."""
    return {
        f"{linear.layer.path.partition('/')[2]}/{linear.name}": linear for linear in model.linears
    }


def adapter_weights(model: GPT) -> list[tuple[keras.Layer, keras.Variable]]:
    """The variables of a model's adapters, each with the layer that has it."""
    found: list[tuple[keras.Layer, keras.Variable]] = []
    for block in model.blocks:
        if block.attention.prefix is not None:
            found += [(block.attention, variable) for variable in block.attention.prefix.variables]
        for linear in block.linears:
            if linear.adapter is not None:
                found += [(linear.layer, variable) for variable in linear.adapter.variables]
    return found


def add_adapter_weight(
    layer: keras.Layer, name: str, shape: tuple[int, ...], initializer: Any
) -> keras.Variable:
    """A new float32 variable of a layer that is built, whatever the type of its other weights."""
    with keras_internals.unlocked(layer), keras_internals.scope_of(layer):
        return layer.add_weight(
            name=name, shape=shape, initializer=initializer, dtype="float32", autocast=False
        )


def freeze_for_adapters(model: GPT, trains: bool = True) -> None:
    """Freeze the weights of a model that is to have adapters.

    Args:
        trains: the adapters will be trained; else they are run beside weights in any format.

    Raises:
        UsageError: it has adapters, or it is to train and was prepared for inference.
    """
    if adapter_weights(model):
        raise UsageError("The model has adapters already; merge them first, with kgpt.merge_lora.")
    if trains:
        train_through_quantized(model)
    kept = {id(variable) for variable in model.trained_with_adapters}
    frozen = [v for v in model.trainable_variables if id(v) not in kept]
    model.__dict__["_frozen_by_adapters"] = frozen  # not tracked by Keras
    for variable in frozen:
        variable.trainable = False


def train_through_quantized(model: GPT) -> None:
    """Let quantized weights pass gradients to the adapters.

    Raises `UsageError` for weights in a format for inference only.
    """
    if any(
        not isinstance(linear.weight, FloatWeight | QuantizedWeight) for linear in model.linears
    ):
        raise UsageError("The model was prepared for inference; load it anew to train adapters.")
    for linear in [*model.linears, model.head]:
        if isinstance(linear.weight, QuantizedWeight):
            linear.weight.quantizes_activations = False


def detach_adapters(model: GPT) -> None:
    """Remove a model's adapters; its weights are trainable again."""
    for layer, variable in adapter_weights(model):
        keras_internals.untrack_variable(layer, variable)
    for block in model.blocks:
        block.attention.prefix = None
        block.adapter_drop.rate = 0.0
        for linear in block.linears:
            linear.adapter = None
    for variable in model.__dict__.pop("_frozen_by_adapters"):
        variable.trainable = True
    refresh(model)


@contextlib.contextmanager
def adapters_disabled(model: GPT) -> Iterator[None]:
    """The model without its adapters while the block runs: what it was before they were added.

    Also while a step is traced; what was compiled with adapters is not used in the block.
    """
    adapters = [(linear, linear.adapter) for linear in model.linears]
    others = [(block, block.compiled_transform, block.attention.prefix) for block in model.blocks]
    try:
        for linear, _ in adapters:
            linear.adapter = None
        for block, _, _ in others:
            block.compiled_transform = block.attention.prefix = None
        yield
    finally:
        for linear, adapter in adapters:
            linear.adapter = adapter
        for block, transform, prefix in others:
            block.compiled_transform, block.attention.prefix = transform, prefix


def refresh(model: GPT) -> None:
    """Forget what was compiled for the variables that a model had."""
    for block in model.blocks:
        block.refresh_tracking()
        block.compiled_transform = None
    backend.refresh_tracking(model)
    model.forget_compiled()
