"""Keras's optimizers on PyTorch, with fewer kernels and no synchronization in a step.

Keras copies the numbers that a step needs to the device, and reads the step count from it, each a
wait for all kernels before. Here the host computes what it knows.
"""

from __future__ import annotations

from typing import Any

import keras
import torch
from keras import ops

from kgpt.backend import keras_internals

Tensor = Any
Variable = Any  # keras.Variable
CONVERGED = 2.0**30  # a step count whose bias correction is 1


def optimizer_class(optimizer: Any) -> Any:
    """The class that Keras instantiates for an optimizer class, faster."""
    bases: tuple[type, ...] = (_TorchOptimizer, type(optimizer()))
    if optimizer is keras.optimizers.AdamW:
        bases = (_FusedAdamW, *bases)
    return type(f"Torch{optimizer.__name__}", bases, {})


class _StepCount:
    """A variable that the host counts along with; mixed in before its class.

    The device is asked only after something else has changed it, such as loading a checkpoint.
    """

    value: Tensor
    _count = 0
    _version = -1

    def assign_add(self, value: int) -> None:
        count = int(self) + value
        with torch.no_grad():
            self.value.add_(value)
        self._count, self._version = count, self.value._version

    def __int__(self) -> int:
        if self._version != self.value._version:
            self._count, self._version = int(self.value.item()), self.value._version
        return self._count

    def __add__(self, other: int) -> int:
        return int(self) + other


class _TorchOptimizer:
    """Clipping, weight decay, accumulation and the EMA; mixed in before a Keras optimizer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        count = keras_internals.micro_iterations(self)
        count.__class__ = type("StepCount", (_StepCount, type(count)), {})

    @property
    def updates(self) -> int:
        """Updates made: `iterations`, without reading it from the device."""
        batches = int(keras_internals.micro_iterations(self))
        return batches // (self.gradient_accumulation_steps or 1)

    def clip_to_global_norm(
        self, grads: list[Tensor], largest: float | None
    ) -> tuple[list[Tensor], Tensor]:
        """The gradients, scaled down to the global norm `largest`, and their norm before."""
        norms = torch._foreach_norm([grad.float() for grad in grads])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if largest:
            grads = list(torch._foreach_mul(grads, largest / norm.clamp(min=largest)))
        return grads, norm

    def _backend_reset_gradient_accumulators(self) -> None:
        torch._foreach_zero_([v.value for v in self._accumulated_gradients if v is not None])

    def average_weights(self, variables: list[Variable], averages: list[Variable]) -> None:
        """ema = m * ema + (1 - m) * weight at updates; at the first, the weight itself."""
        batch = int(keras_internals.micro_iterations(self)) + 1
        if self.updates and batch % (self.gradient_accumulation_steps or 1):
            return
        weight = 1 - self.ema_momentum if self.updates else 1.0
        with torch.no_grad():
            torch._foreach_lerp_([v.value for v in averages], [v.value for v in variables], weight)


class _FusedAdamW:
    """One kernel for the moments and the weights of all variables."""

    def _apply_weight_decay(self, variables: list[Variable]) -> None:
        """weight -= learning rate * decay * weight."""
        decayed = [v.value for v in variables if self._use_weight_decay(v)]
        if decayed and self.weight_decay is not None:
            with torch.no_grad():
                rate = ops.convert_to_tensor(self.learning_rate)
                torch._foreach_mul_(decayed, 1 - self.weight_decay * rate)

    def _parallel_update_step(
        self, grads: list[Tensor], variables: list[Variable], learning_rate: Variable
    ) -> None:
        at = [self._get_variable_index(variable) for variable in variables]
        weights = [variable.value for variable in variables]
        momentums = [self._momentums[i].value for i in at]
        velocities = [self._velocities[i].value for i in at]
        if self.amsgrad or not _alike(weights, grads, momentums, velocities):
            super()._parallel_update_step(grads, variables, learning_rate)
            return
        # PyTorch adds epsilon after the bias correction and Keras before, as in the first form of
        # the paper: the correction is made part of the rate.
        step = self.updates + 1
        correction = (1 - self.beta_2**step) ** 0.5 / (1 - self.beta_1**step)
        rate = ops.convert_to_tensor(learning_rate) * correction
        steps = torch.full((), CONVERGED, device=weights[0].device)
        torch._fused_adamw_(
            weights, grads, momentums, velocities, [], [steps] * len(weights),
            lr=rate, beta1=self.beta_1, beta2=self.beta_2, weight_decay=0.0, eps=self.epsilon,
            amsgrad=False, maximize=False,
        )  # fmt: skip


def _alike(*lists: list[Tensor]) -> bool:
    """Are all tensors float32 and contiguous, as the fused kernel reads them, on CPU or CUDA?"""
    tensors = [tensor for tensors in lists for tensor in tensors]
    return tensors[0].device.type in ("cpu", "cuda") and all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors
    )
