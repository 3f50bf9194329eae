"""Next-token cross-entropy that never stores (B, T, V) logits nor one-hot targets.

The output projection and the loss are one operation over chunks of tokens. The gradient is computed
in the forward pass, while a chunk's logits exist, so nothing is computed twice and only one chunk
of logits is in memory at a time.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kgpt import backend

Tensor = Any
GRAD_SCALE = 1024.0  # keeps token weights of about 1 / M above the smallest float16 numbers


@keras.saving.register_keras_serializable("kgpt")
class NextTokenLoss(keras.losses.Loss):
    """Mean cross-entropy of the targets, over the tokens whose weight is not zero.

    Like any Keras loss it takes logits (B, T, V); a `kgpt.GPT` gives it the hidden states.

    Args:
        label_smoothing: share of each target spread evenly over the vocabulary
            (Szegedy et al., 2016).
        chunk: tokens whose logits are in memory at a time.

    Example:

    >>> loss = NextTokenLoss()
    >>> round(float(loss(keras.ops.array([[1, 2]]), keras.ops.zeros((1, 2, 4)))), 4)  # log 4
    1.3863
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        chunk: int = 4096,
        name: str = "next_token_loss",
        **kwargs: Any,
    ):
        kwargs.setdefault("reduction", "sum_over_batch_size")
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.chunk = chunk

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Loss (B, T) of each token, from targets (B, T) and logits (B, T, V)."""
        logits = ops.reshape(y_pred, (-1, y_pred.shape[-1]))  # (M, V), M = B * T
        targets = ops.reshape(ops.cast(y_true, "int32"), (-1,))  # (M,)
        losses, _ = token_losses(ops.cast(logits, "float32"), targets, self.label_smoothing)
        return ops.reshape(losses, ops.shape(y_pred)[:-1])

    def from_hidden_states(
        self,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor = None,
        training: bool = True,
    ) -> Tensor:
        """Scalar loss of hidden states (B, T, D) with output embeddings `head` (V, D).

        Args:
            targets: (B, T) token ids.
            weights: (B, T) weight of each token in the mean; None weighs all alike.
            training: also compute the gradient.
        """
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D)
        targets = ops.reshape(ops.cast(targets, "int32"), (-1,))  # (M,)
        if weights is None:
            weights = ops.ones(ops.shape(targets), "float32")
        weights = ops.reshape(ops.cast(weights, "float32"), (-1,))  # (M,)
        weights = weights / ops.maximum(ops.sum(weights), 1e-9)
        head = ops.convert_to_tensor(head)
        return linear_cross_entropy(
            hidden, head, targets, weights, self.label_smoothing, self.chunk, training
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "chunk": self.chunk,
        }


def token_losses(
    logits: Tensor, targets: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Losses (M,) and logsumexp (M, 1) of logits (M, V) float32 for targets (M,).

    With smoothing e the target distribution is (1 - e) at the target plus e / V everywhere:
    loss = logsumexp - (1 - e) * logit[target] - e * mean(logits).
    """
    logsumexp = ops.logsumexp(logits, axis=-1, keepdims=True)  # (M, 1)
    is_target = _target_mask(logits, targets)
    target_logits = ops.sum(ops.where(is_target, logits, 0.0), axis=-1)  # (M,)
    losses = logsumexp[:, 0] - (1.0 - label_smoothing) * target_logits
    if label_smoothing:
        losses = losses - label_smoothing * ops.mean(logits, axis=-1)
    return losses, logsumexp


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    label_smoothing: float,
    chunk: int,
    training: bool,
) -> Tensor:
    """sum_i weights[i] * cross_entropy(hidden[i] @ head.T, targets[i]).

    Args:
        hidden: (M, D).
        head: (V, D).
        targets: (M,) int32.
        weights: (M,) float32.
        chunk: rows at a time.
        training: also compute the gradient, for hidden and head.
    """
    rows = hidden.shape[0]
    starts = [0] if rows is None else range(0, rows, chunk)
    chunks = [(start, None if rows is None else min(start + chunk, rows)) for start in starts]

    def chunk_loss(hidden: Tensor, head: Tensor, start: int, end: int | None) -> tuple[Tensor, ...]:
        x, y, w = hidden[start:end], targets[start:end], weights[start:end]
        head = ops.transpose(ops.cast(head, x.dtype))  # (D, V)
        logits = ops.cast(backend.dense(x, head), "float32")  # (chunk, V)
        losses, logsumexp = token_losses(logits, y, label_smoothing)
        return x, y, w, logits, logsumexp, ops.sum(losses * w)

    if not training:
        return sum(chunk_loss(hidden, head, *bounds)[-1] for bounds in chunks)

    def loss_with_gradient(hidden: Tensor, head: Tensor) -> tuple[Tensor, Any]:
        total, dhidden_chunks, dhead = 0.0, [], 0.0
        for bounds in chunks:
            x, y, w, logits, logsumexp, loss = chunk_loss(hidden, head, *bounds)
            dlogits = ops.exp(logits - logsumexp)  # softmax, (chunk, V)
            if label_smoothing:
                dlogits = dlogits - label_smoothing / head.shape[0]
            is_target = _target_mask(logits, y)
            dlogits = ops.where(is_target, dlogits - (1.0 - label_smoothing), dlogits)
            dlogits = ops.cast(dlogits, x.dtype)
            dx = backend.dense(dlogits, ops.cast(head, x.dtype))  # (chunk, D)
            dhidden_chunks.append(ops.cast(dx, "float32") * w[:, None])
            scaled = dlogits * ops.cast(w * GRAD_SCALE, x.dtype)[:, None]
            dhead = dhead + ops.cast(backend.dense(ops.transpose(scaled), x), "float32")  # (V, D)
            total = total + loss
        dhidden = ops.concatenate(dhidden_chunks, axis=0)  # (M, D)

        def pullback(upstream: Tensor) -> tuple[Tensor, Tensor]:
            return (
                ops.cast(dhidden * upstream, hidden.dtype),
                ops.cast(dhead * (upstream / GRAD_SCALE), head.dtype),
            )

        return total, pullback

    return backend.custom_gradient(loss_with_gradient)(hidden, head)


def _target_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """(M, V) booleans, true in each row's target column: a comparison, not a one-hot array."""
    return ops.arange(logits.shape[-1], dtype="int32")[None, :] == targets[:, None]
