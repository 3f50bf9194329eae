"""The loss as `fit` and `evaluate` report it: of the last batch, or over all tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


def keep_nonfinite(old: Tensor, new: Tensor) -> Tensor:
    """`new`, unless `old` is infinite or NaN: then `old`, so that it can be found later.

    Both are scalars on the device; to look at each would wait for each step.
    """
    old = ops.convert_to_tensor(old)
    return ops.where(ops.isfinite(old), new, old)


class TokenLoss(keras.metrics.Metric):
    """In training the mean loss of the latest batch; in evaluation the mean over all tokens.

    A training loss that is infinite or NaN stays until the metric is reset. Keras's own tracker
    averages over the epoch so far, which hides what a step did, and weighs batches alike however
    many tokens they hold.
    """

    def __init__(self, name: str = "loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, mean: Tensor, tokens: Tensor, training: bool) -> None:
        """Add a batch's `mean` loss over `tokens` (a scalar weight)."""
        mean, tokens = ops.cast(mean, "float32"), ops.cast(tokens, "float32")
        if training:
            self.total.assign(keep_nonfinite(self.total, mean * tokens))
            self.count.assign(tokens)
        else:
            self.total.assign(self.total + mean * tokens)
            self.count.assign(self.count + tokens)

    def result(self) -> Tensor:
        return self.total.value / (self.count.value + 1e-9)
