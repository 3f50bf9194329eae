"""A loss on preferences, computed from the hidden states of a model and those of its reference.

The reference is what the model was before it was trained. Its log-probabilities are given with the
batch (`kgpt.reference_log_probs`), or it is the model without its adapters.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.errors import UsageError
from kgpt.model.adapters import adapters_disabled
from kgpt.model.gpt import GPT
from kgpt.model.loss_metric import TokenLoss
from kgpt.training.log_probs import token_log_probs
from kgpt.training.losses import NO_TOKENS, chunk_gradient

Tensor = Any
Batch = dict[str, Tensor]
Metrics = dict[str, tuple[Tensor, Tensor]]  # a value for each sequence or pair, and their weights


class PreferenceLoss(keras.losses.Loss):
    """A loss that a `kgpt.GPT` computes from its hidden states and the rest of a batch.

    Batches are those of `kgpt.PreferenceDataset` and `kgpt.UnpairedPreferenceDataset`.

    Args:
        beta: strength of the loss; DPO, IPO and KTO stay the closer to the reference, the larger.
        chunk: tokens whose logits are in memory at a time.

    Attributes:
        metrics: what `fit` and `evaluate` report besides the loss.
    """

    METRICS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, beta: float = 0.1, chunk: int = 4096, name: str | None = None, **kwargs: Any
    ):
        kwargs.setdefault("reduction", "sum_over_batch_size")
        super().__init__(name=name, **kwargs)
        self.beta, self.chunk = beta, chunk
        self.gradient: Any = chunk_gradient
        self.metrics = [TokenLoss(name=metric) for metric in self.METRICS]

    def compile(self, compiled: bool) -> None:
        """Compile the part of the step that is the loss's, or do so no more."""
        self.gradient = backend.compile_regions([chunk_gradient])[0] if compiled else chunk_gradient

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        raise UsageError(
            f"{type(self).__name__} needs the hidden states of a kgpt.GPT; compile the model "
            "without metrics, and train it on a kgpt.PreferenceDataset."
        )

    def from_model(
        self,
        model: GPT,
        inputs: Tensor,
        hidden: Tensor,
        y: Batch,
        weights: Tensor,
        training: bool = True,
    ) -> Tensor:
        """The mean loss of a batch; also updates the metrics of the model and its own.

        Args:
            inputs: (R, T) token ids. hidden: (R, T, D), the states that they give.
            y: "targets" (R, T) and what else the data set gives.
            weights: (R, T), 1 where the target is a completion's; all 0 in a row of padding.
        """
        y = {name: ops.convert_to_tensor(value) for name, value in y.items()}
        weights = ops.cast(weights, "float32")
        log_probs = self.token_log_probs(model, hidden, y["targets"], training)
        y = self.with_reference(model, inputs, y, weights)
        losses, counted, metrics = self.losses(log_probs, weights, y)
        loss = mean(losses, counted)
        model.token_loss.update_state(ops.stop_gradient(loss), ops.sum(counted), training)
        for metric in self.metrics:
            values, of = metrics[metric.name]
            metric.update_state(ops.stop_gradient(mean(values, of)), ops.sum(of), training)
        return loss

    def losses(
        self, log_probs: Tensor, weights: Tensor, y: Batch
    ) -> tuple[Tensor, Tensor, Metrics]:
        """A loss and a weight for each pair or completion, and the metrics."""
        raise NotImplementedError

    def with_reference(self, model: GPT, inputs: Tensor, y: Batch, weights: Tensor) -> Batch:
        """`y` with "reference_log_probs" (R,), from the model without adapters if not given."""
        if "reference_log_probs" in y:
            return y
        return y | {"reference_log_probs": self.reference(model, inputs, y["targets"], weights)}

    def reference(self, model: GPT, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Log-probabilities (R,) of completions by the model without its adapters."""
        if model.adapter_config is None:
            raise UsageError(
                f"{type(self).__name__} needs a reference: give the data set "
                "kgpt.reference_log_probs(model, data), or the model adapters (kgpt.add_lora)."
            )
        with adapters_disabled(model):
            return completion_log_probs(model, inputs, targets, weights, self.chunk)

    def token_log_probs(
        self, model: GPT, hidden: Tensor, targets: Tensor, training: bool
    ) -> Tensor:
        """Log-probabilities (R, T) of targets, with a gradient while training."""
        head, variable = model.head.weight.as_table(), model.head.variable
        trainable = variable is not None and variable.trainable
        return token_log_probs(
            hidden, head, targets, self.chunk, training, trainable, self.gradient
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta, "chunk": self.chunk}


def completion_log_probs(
    model: GPT, inputs: Tensor, targets: Tensor, weights: Tensor, chunk: int = 4096
) -> Tensor:
    """Sums (R,) of the log-probabilities of `targets` (R, T) of weight 1, without a gradient."""

    def forward(inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        hidden = model.hidden_states(inputs)
        table = model.head.weight.as_table()
        return ops.sum(token_log_probs(hidden, table, targets, chunk, False) * weights, axis=1)

    with keras_internals.autocast(model):
        return backend.without_gradient(forward)(inputs, targets, weights)


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean of the values whose weight is 1; 0 of none."""
    return ops.sum(values * weights) / (ops.sum(weights) + NO_TOKENS)
