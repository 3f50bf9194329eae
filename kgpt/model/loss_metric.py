"""The loss as `fit` and `evaluate` report it: of the last batch, or over all tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


class TokenLoss(keras.metrics.Metric):
    """In training the mean loss of the latest batch; in evaluation the mean over all tokens.

    Keras's own tracker averages over the epoch so far, which hides what a step did, and weighs
    batches alike however many tokens they hold.
    """

    def __init__(self, name: str = "loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(self, mean: Tensor, tokens: Tensor, training: bool) -> None:
        """Add a batch's `mean` loss over `tokens` (a scalar weight)."""
        mean, tokens = ops.cast(mean, "float32"), ops.cast(tokens, "float32")
        if training:
            self.total.assign(mean * tokens)
            self.count.assign(tokens)
        else:
            self.total.assign(self.total + mean * tokens)
            self.count.assign(self.count + tokens)

    def result(self) -> Tensor:
        return self.total / ops.maximum(self.count, 1e-9)
