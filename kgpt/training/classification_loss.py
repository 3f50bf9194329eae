"""The loss of a classifier: cross-entropy over the labels, or binary for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class ClassificationLoss(keras.losses.Loss):
    """Mean cross-entropy of the labels of a batch's texts.

    Like any Keras loss it takes logits (B, C); a `kgpt.Classifier` gives it hidden states.

    Args:
        multi_label: targets are (B, C) of 0 and 1, each label a binary one; else (B,) indices.
        class_weights: (C,) a factor on the loss of a text of each label; of several labels a text,
            on the loss of the texts that have the label (PyTorch's `pos_weight`).
        label_smoothing: share of each target spread evenly over the labels.

    Example:

    >>> loss = ClassificationLoss(class_weights=[1, 3])
    >>> round(float(loss(keras.ops.array([0, 1]), keras.ops.zeros((2, 2)))), 4)  # 2 log 2
    1.3863
    """

    def __init__(
        self,
        multi_label: bool = False,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        name: str = "classification_loss",
        **kwargs: Any,
    ):
        kwargs.setdefault("reduction", "mean_with_sample_weight")
        super().__init__(name=name, **kwargs)
        self.multi_label, self.label_smoothing = multi_label, label_smoothing
        self.class_weights = None if class_weights is None else [float(w) for w in class_weights]

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The loss of each text: (B,)."""
        logits = ops.cast(y_pred, "float32")  # (B, C)
        weights = (
            ops.ones((logits.shape[-1],))
            if self.class_weights is None
            else (ops.convert_to_tensor(self.class_weights, "float32"))
        )
        if self.multi_label:
            return self._binary(ops.cast(y_true, "float32"), logits, weights)
        chosen = ops.one_hot(ops.cast(y_true, "int32"), logits.shape[-1], dtype="float32")  # (B, C)
        smooth = chosen * (1 - self.label_smoothing) + self.label_smoothing / logits.shape[-1]
        losses = -ops.sum(smooth * ops.log_softmax(logits, axis=-1), axis=-1)
        return losses * ops.sum(chosen * weights, axis=-1)

    def _binary(self, targets: Tensor, logits: Tensor, weights: Tensor) -> Tensor:
        """The mean over the labels of each label's binary cross-entropy: (B,)."""
        targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        positive, negative = ops.softplus(-logits), ops.softplus(logits)
        return ops.mean(targets * weights * positive + (1 - targets) * negative, axis=-1)

    def from_hidden_states(
        self,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        sample_weight: Tensor | None = None,
        training: bool = False,
        trainable: bool = True,
    ) -> Tensor:
        """The mean loss of states (B, D) under a head (C, D); see `NextTokenLoss`."""
        logits = ops.matmul(hidden, ops.transpose(ops.cast(head, hidden.dtype)))
        return self(targets, logits, sample_weight)

    def get_config(self) -> dict[str, Any]:
        own = {
            "multi_label": self.multi_label,
            "class_weights": self.class_weights,
            "label_smoothing": self.label_smoothing,
        }
        return super().get_config() | own
