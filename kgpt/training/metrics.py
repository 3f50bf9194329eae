"""Keras metrics of language models, for `compile(metrics=[...])`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from kgpt.text.tokenizer import Tokenizer
from kgpt.training.losses import token_losses

Tensor = Any
NO_WEIGHT = 1e-9


class _MeanLoss(keras.metrics.Metric):
    """The sum of weighted losses of tokens, and of what they are divided by."""

    def __init__(self, name: str, **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable(shape=(), initializer="zeros", name="total")
        self.count = self.add_variable(shape=(), initializer="zeros", name="count")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        """Add a batch: targets (B, T), logits (B, T, V), and weights (B, T) or (B,)."""
        targets = ops.cast(y_true, "int32")
        weights = ops.ones_like(targets, "float32")
        if sample_weight is not None:
            given = ops.cast(sample_weight, "float32")
            weights = weights * (given if len(given.shape) == 2 else given[:, None])
        targets, weights = ops.reshape(targets, (-1,)), ops.reshape(weights, (-1,))  # (M,)
        logits = ops.cast(ops.reshape(y_pred, (-1, y_pred.shape[-1])), "float32")
        losses, _ = token_losses(logits, targets)
        self.total.assign_add(ops.sum(losses * weights))
        self.count.assign_add(ops.sum(self.units(targets) * weights))

    def units(self, targets: Tensor) -> Tensor:
        """What each target (M,) adds to the divisor: 1."""
        return ops.ones_like(targets, "float32")

    def result(self) -> Tensor:
        return self.total.value / ops.maximum(self.count.value, NO_WEIGHT)


@keras.saving.register_keras_serializable("kgpt")
class Perplexity(_MeanLoss):
    """exp of the mean cross-entropy of the targets, over all tokens by their weights.

    Example:

    >>> metric = Perplexity()
    >>> metric.update_state(keras.ops.array([[1, 2]]), keras.ops.zeros((1, 2, 4)))
    >>> round(float(metric.result()), 4)  # each of 4 tokens is as likely
    4.0
    """

    def __init__(self, name: str = "perplexity", **kwargs: Any):
        super().__init__(name, **kwargs)

    def result(self) -> Tensor:
        return ops.exp(super().result())


@keras.saving.register_keras_serializable("kgpt")
class BitsPerByte(_MeanLoss):
    """Cross-entropy in bits per byte of text, which compares models whatever their tokenizers.

    Args:
        token_bytes: (V,) UTF-8 bytes that each token stands for; see `for_tokenizer`.

    Example:

    >>> metric = BitsPerByte([1, 1, 2, 4])
    >>> metric.update_state(keras.ops.array([[1, 2]]), keras.ops.zeros((1, 2, 4)))
    >>> round(float(metric.result()), 4)  # 2 bits each, 3 bytes
    1.3333
    """

    def __init__(self, token_bytes: Sequence[int], name: str = "bits_per_byte", **kwargs: Any):
        super().__init__(name, **kwargs)
        self.token_bytes = [int(size) for size in token_bytes]

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer, **kwargs: Any) -> Self:
        """With the sizes of a tokenizer's tokens; special tokens stand for no text."""
        ids = range(tokenizer.vocab_size)
        return cls([len(tokenizer.token_bytes(i) or b"") for i in ids], **kwargs)

    def units(self, targets: Tensor) -> Tensor:
        return ops.take(np.asarray(self.token_bytes, "float32"), targets)

    def result(self) -> Tensor:
        return super().result() / math.log(2)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "token_bytes": self.token_bytes}
