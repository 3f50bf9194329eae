"""Every use of a private attribute of Keras, in one place.

Checked on Keras 3.15.1; look here first when a new version misbehaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common.variables import AutocastScope


@contextlib.contextmanager
def unlocked(layer: keras.Layer) -> Iterator[None]:
    """Allow a layer that is already built to create variables."""
    tracker = layer._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if locked:
            tracker.lock()


@contextlib.contextmanager
def scope_of(layer: keras.Layer) -> Iterator[None]:
    """Name new variables as if the layer created them when it was built: below its path."""
    with contextlib.ExitStack() as scopes:
        for name in layer.path.split("/"):
            scopes.enter_context(keras.name_scope(name))
        yield


def autocast(layer: keras.Layer) -> contextlib.AbstractContextManager[Any]:
    """Read variables in the compute dtype of `layer`, as in its `__call__`."""
    if layer.compute_dtype == layer.variable_dtype:
        return contextlib.nullcontext()
    return AutocastScope(layer.compute_dtype)


def no_autocast() -> contextlib.AbstractContextManager[Any]:
    """Read variables in their own dtype, also within a layer's `__call__`."""
    return AutocastScope(None)


def untrack_variable(layer: keras.Layer, variable: keras.Variable) -> None:
    """Remove a variable from the variables of a layer, which may be built."""
    layer._untrack_variable(variable)


def retrack_variables(layer: keras.Layer) -> None:
    """Rebuild the record of a PyTorch layer of its variables and those of its child layers."""
    layer._track_variables()


def stored(variable: keras.Variable) -> Any:
    """The tensor of a variable, without the checks and casts of `value`."""
    return variable._value


def store(variable: keras.Variable, value: Any) -> None:
    """Make `value` that of a variable as it is, not placed on the variable's devices."""
    variable._value = value


def layout(variable: keras.Variable) -> Any:
    """The `TensorLayout` of a variable that was made for a mesh of devices; else None."""
    return getattr(variable, "_layout", None)


def loss_tracker(model: keras.Model) -> keras.metrics.Metric | None:
    """The metric that averages a compiled model's loss."""
    return model._loss_tracker


def stop_loss_tracker(model: keras.Model) -> None:
    """Average the loss no more, where another metric reports it."""
    model._loss_tracker.update_state = lambda *args, **kwargs: None


def skip_loss_build(model: keras.Model) -> None:
    """Do not try the compiled loss on targets and logits: it is given hidden states."""
    model._compile_loss.built = True


def has_compiled_metrics(model: keras.Model) -> bool:
    """Was `compile` given metrics?"""
    return model._compile_metrics is not None


def learning_rate(optimizer: keras.optimizers.Optimizer) -> Any:
    """The learning rate as a variable, not its value, or the schedule."""
    return optimizer._learning_rate


def micro_iterations(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Batches seen; `iterations` counts updates, which accumulation makes fewer."""
    return optimizer._iterations


def ema_variables(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """The averaged weights of an optimizer with `use_ema`, one per trainable variable."""
    averages: list[keras.Variable] = optimizer._model_variables_moving_average
    return averages


def live_optimizer_state(model: keras.Model) -> list[Any] | None:
    """The optimizer values that `fit` passes from step to step on JAX; None outside `fit`.

    Between two steps the Keras variables are stale, until the next `jax_state_sync`.
    """
    state = getattr(model, "_jax_state", None)
    if not state or model._jax_state_synced:
        return None
    variables: list[Any] = state["optimizer_variables"]
    return variables


def torch_device() -> Any:
    """The `torch.device` that Keras makes tensors on."""
    import torch
    from keras.src.backend.torch.core import get_device

    return torch.device(get_device())
