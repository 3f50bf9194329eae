"""AdamW, Lion and Muon, with what training a GPT adds to Keras's own.

- Weight decay touches matrices only: biases, norms and any path in `no_decay` are left alone.
- `gradient_norm` holds the global norm of the last gradient, before clipping.
- Averaged weights (EMA) advance once an update, also under gradient accumulation.
"""

import re

import keras
from keras import ops


def _native(optimizer):
    """The class Keras really uses for `optimizer`: on torch one that takes all weights at once."""
    return type(optimizer())


class DecayMaskEMAMixin:
    """The additions. Mixed in before a Keras optimizer."""

    def __init__(self, *args, no_decay=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.no_decay = tuple(no_decay)

    def build(self, variables):
        if self.built:
            return
        kept = [variable for variable in variables if not self.decays(variable)]
        self.exclude_from_weight_decay(var_list=kept)
        super().build(variables)
        self.gradient_norm = self.add_variable(
            shape=(), initializer="zeros", dtype="float32", name="gradient_norm"
        )

    def decays(self, variable):
        """Does weight decay shrink this variable?"""
        named = any(re.search(pattern, variable.path) for pattern in self.no_decay)
        return len(variable.shape) >= 2 and not named

    def _clip_gradients(self, grads):
        grads = [ops.convert_to_tensor(grad) for grad in grads]
        squares = [ops.sum(ops.square(ops.cast(grad, "float32"))) for grad in grads]
        norm = ops.sqrt(ops.sum(ops.stack(squares)))
        self.gradient_norm.assign(norm)
        if not self.global_clipnorm:
            return super()._clip_gradients(grads)
        scale = self.global_clipnorm / ops.maximum(norm, self.global_clipnorm)
        return [grad * ops.cast(scale, grad.dtype) for grad in grads]

    def _update_model_variables_moving_average(self, trainable_variables):
        """average = m * average + (1 - m) * weight, at updates; at the first, the weight itself."""
        first = ops.equal(self.iterations, 0)
        momentum = ops.where(first, 0.0, self.ema_momentum)
        if self.gradient_accumulation_steps:
            micro = (self._iterations + 1) % self.gradient_accumulation_steps
            momentum = ops.where(ops.equal(micro, 0) | first, momentum, 1.0)
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None:
                share = ops.cast(momentum, variable.dtype)
                average.assign(share * average + (1 - share) * variable)

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        """Copy the averages into the weights; sharing would break JAX's buffer donation."""
        for variable, average in zip(
            trainable_variables, self._model_variables_moving_average, strict=True
        ):
            if average is not None:
                variable.assign(ops.copy(average))

    def ema_weights(self):
        """The averaged weights, one for each trainable variable; None if none are kept."""
        return self._model_variables_moving_average if self.use_ema else None

    def get_config(self):
        return {**super().get_config(), "no_decay": list(self.no_decay)}


@keras.saving.register_keras_serializable("kgpt")
class AdamW(DecayMaskEMAMixin, _native(keras.optimizers.AdamW)):
    """AdamW (Loshchilov & Hutter, 2019)."""


@keras.saving.register_keras_serializable("kgpt")
class Lion(DecayMaskEMAMixin, _native(keras.optimizers.Lion)):
    """Lion (Chen et al., 2023). It wants a learning rate some 3 to 10 times below AdamW's."""


@keras.saving.register_keras_serializable("kgpt")
class Muon(DecayMaskEMAMixin, _native(keras.optimizers.Muon)):
    """Muon (Jordan et al., 2024) for the matrices inside blocks, AdamW for everything else."""

    def __init__(self, *args, exclude_layers=("head",), **kwargs):
        super().__init__(*args, exclude_layers=list(exclude_layers), **kwargs)


def make_optimizer(config):
    """The optimizer that a `TrainConfig` describes; the learning rate is its peak.

    The schedule is a callback: `kgpt.WarmupCosine`.
    """
    options = {
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.max_grad_norm,
        "gradient_accumulation_steps": (
            config.grad_accumulation if config.grad_accumulation > 1 else None
        ),
        "name": config.optimizer,
    }
    if config.ema_decay:
        options |= {"use_ema": True, "ema_momentum": config.ema_decay}
    betas = {"beta_1": config.beta_1, "beta_2": config.beta_2}
    if config.optimizer == "muon":
        adam = {f"adam_{name}": value for name, value in betas.items()}
        return Muon(**options, **adam, adam_weight_decay=config.weight_decay)
    if config.optimizer == "lion":
        return Lion(**options, **betas)
    return AdamW(**options, **betas, epsilon=1e-8)


def unwrap_optimizer(optimizer):
    """The optimizer itself, without the loss scaling that float16 puts around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)
