"""AdamW, Lion and Muon, with what training a GPT adds to Keras's own.

- Weight decay applies to matrices only: not to biases, norms and paths that match `no_decay`.
- `gradient_norm` is the global norm of the last gradient, before clipping; or the first that was
  not finite.
- The exponential moving average (EMA) of the weights advances once an update, also when gradients
  are accumulated over several batches.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.config import TrainConfig
from kgpt.model.loss_metric import keep_nonfinite

Tensor = Any
Variable = Any  # keras.Variable
Optimizer = Any  # keras.optimizers.Optimizer


class DecayMaskEMAMixin:
    """Decay mask, gradient norm and EMA; mixed in before a Keras optimizer.

    Args:
        no_decay: regular expressions; variables whose path matches one are not decayed.
    """

    def __init__(self, *args: Any, no_decay: Sequence[str] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.no_decay = tuple(no_decay)
        self.gradient_norms: Variable | None = None

    def build(self, variables: list[Variable]) -> None:
        if self.built:
            return
        excluded = [variable for variable in variables if not self.decays(variable)]
        self.exclude_from_weight_decay(var_list=excluded)
        super().build(variables)
        self.num_variables = len(variables)
        self.gradient_norm = self.add_variable(
            shape=(), initializer="zeros", dtype="float32", name="gradient_norm"
        )

    def decays(self, variable: Variable) -> bool:
        """Does weight decay apply to this variable?"""
        excluded = any(re.search(pattern, variable.path) for pattern in self.no_decay)
        return len(variable.shape) >= 2 and not excluded

    def record_gradient_norms(self) -> None:
        """Keep the norm of each variable's last gradient, before clipping, in `gradient_norms`.

        Call it before `fit`, on a built optimizer whose state no checkpoint is to hold.
        """
        self.gradient_norms = self.add_variable(
            shape=(self.num_variables,),
            initializer="zeros",
            dtype="float32",
            name="gradient_norms",
        )

    def _clip_gradients(self, grads: list[Tensor]) -> list[Tensor]:
        grads = [ops.convert_to_tensor(grad) for grad in grads]
        if self.gradient_norms is not None:
            squares = [ops.sum(ops.square(ops.cast(grad, "float32"))) for grad in grads]
            self.gradient_norms.assign(ops.sqrt(ops.stack(squares)))
        grads, norm = self.clip_to_global_norm(grads, self.global_clipnorm)
        self.gradient_norm.assign(keep_nonfinite(self.gradient_norm, norm))
        return grads if self.global_clipnorm else list(super()._clip_gradients(grads))

    def _update_model_variables_moving_average(self, trainable_variables: list[Variable]) -> None:
        averages = keras_internals.ema_variables(self)
        kept = [i for i, average in enumerate(averages) if average is not None]
        self.average_weights([trainable_variables[i] for i in kept], [averages[i] for i in kept])

    def _overwrite_model_variables_with_average_value(
        self, trainable_variables: list[Variable]
    ) -> None:
        """Copy the EMA into the weights; sharing buffers would break JAX's donation."""
        for variable, average in zip(
            trainable_variables, keras_internals.ema_variables(self), strict=True
        ):
            if average is not None:
                variable.assign(ops.copy(average))

    def ema_weights(self) -> list[Variable] | None:
        """The EMA of each trainable variable; None if none is kept or no update was made."""
        if not self.use_ema or int(self.iterations) == 0:
            return None
        return keras_internals.ema_variables(self)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "no_decay": list(self.no_decay)}


@keras.saving.register_keras_serializable("kgpt")
class AdamW(DecayMaskEMAMixin, backend.optimizer_class(keras.optimizers.AdamW)):
    """AdamW (Loshchilov & Hutter, 2019)."""


@keras.saving.register_keras_serializable("kgpt")
class Lion(DecayMaskEMAMixin, backend.optimizer_class(keras.optimizers.Lion)):
    """Lion (Chen et al., 2023). Its learning rate is typically 3 to 10 times below AdamW's."""


@keras.saving.register_keras_serializable("kgpt")
class Muon(DecayMaskEMAMixin, backend.optimizer_class(keras.optimizers.Muon)):
    """Muon (Jordan et al., 2024) for the matrices inside blocks, AdamW for everything else."""

    def __init__(self, *args: Any, exclude_layers: Sequence[str] = ("head",), **kwargs: Any):
        super().__init__(*args, exclude_layers=list(exclude_layers), **kwargs)


def make_optimizer(config: TrainConfig) -> Optimizer:
    """The optimizer of a configuration, at its highest learning rate.

    The schedule is a callback: `kgpt.LRSchedule`.
    """
    options: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.max_grad_norm or None,
        "gradient_accumulation_steps": (
            config.grad_accumulation if config.grad_accumulation > 1 else None
        ),
        "name": config.optimizer,
    }
    if config.ema_decay:
        options |= {"use_ema": True, "ema_momentum": config.ema_decay}
    betas: dict[str, Any] = {"beta_1": config.beta_1, "beta_2": config.beta_2}
    if config.optimizer == "muon":
        adam: dict[str, Any] = {f"adam_{name}": value for name, value in betas.items()}
        return Muon(**options, **adam, adam_weight_decay=config.weight_decay)
    if config.optimizer == "lion":
        return Lion(**options, **betas)
    return AdamW(**options, **betas, epsilon=1e-8)


def unwrap_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside the loss scaling that float16 wraps around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def ema_weights(model: keras.Model) -> list[Variable] | None:
    """The EMA of a compiled model's trainable variables, in their order.

    None if the optimizer keeps none or has made no update.
    """
    optimizer = unwrap_optimizer(model.optimizer)
    return optimizer.ema_weights() if isinstance(optimizer, DecayMaskEMAMixin) else None


@contextlib.contextmanager
def swap_in_ema_weights(model: keras.Model) -> Iterator[None]:
    """Give the model its EMA weights, if there are any, while the block runs."""
    averages = ema_weights(model)
    if averages is None:
        yield
        return
    raw = [ops.copy(variable.value) for variable in model.trainable_variables]
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(ops.copy(average.value))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)
