"""Keras's optimizers, for the backends that compile a step as a whole."""

from __future__ import annotations

from typing import Any

from keras import ops

from kgpt.backend import keras_internals

Tensor = Any
Variable = Any  # keras.Variable


def optimizer_class(optimizer: Any) -> Any:
    """The class that Keras instantiates for an optimizer class, with the methods below."""
    return type(f"Backend{optimizer.__name__}", (_KerasOptimizer, type(optimizer())), {})


class _KerasOptimizer:
    """Clipping and the EMA in Keras operations; mixed in before a Keras optimizer."""

    def clip_to_global_norm(
        self, grads: list[Tensor], largest: float | None
    ) -> tuple[list[Tensor], Tensor]:
        """The gradients, scaled down to the global norm `largest`, and their norm before."""
        squares = [ops.sum(ops.square(ops.cast(grad, "float32"))) for grad in grads]
        norm = ops.sqrt(ops.sum(ops.stack(squares)))
        if largest:
            scale = largest / ops.maximum(norm, largest)
            grads = [grad * ops.cast(scale, grad.dtype) for grad in grads]
        return grads, norm

    def average_weights(self, variables: list[Variable], averages: list[Variable]) -> None:
        """ema = m * ema + (1 - m) * weight at updates; at the first, the weight itself."""
        is_first = ops.equal(self.iterations, 0)
        momentum = ops.where(is_first, 0.0, self.ema_momentum)
        if self.gradient_accumulation_steps:
            batch = (keras_internals.micro_iterations(self) + 1) % self.gradient_accumulation_steps
            momentum = ops.where(ops.equal(batch, 0) | is_first, momentum, 1.0)
        for variable, average in zip(variables, averages, strict=True):
            m = ops.cast(momentum, variable.dtype)
            average.assign(m * average + (1 - m) * variable)
