"""Next-token cross-entropy that never stores (B, T, V) logits nor one-hot targets.

The head and the loss are one operation over chunks of tokens. The gradient is taken in the forward
pass, while a chunk's logits are at hand, so nothing is computed twice and only one chunk of logits
is alive at a time.
"""

import keras
from keras import ops

from kgpt import backend


@keras.saving.register_keras_serializable("kgpt")
class NextTokenLoss(keras.losses.Loss):
    """Mean cross-entropy of the targets, over the tokens whose weight is not zero.

    As any Keras loss it takes logits (B, T, V); given to a `kgpt.GPT` it takes the hidden states.

    Args:
        label_smoothing: share of each target spread evenly over the vocabulary
            (Szegedy et al., 2016).
        chunk: tokens whose logits are held at once.

    Example:

    >>> loss = NextTokenLoss()
    >>> round(float(loss(keras.ops.array([[1, 2]]), keras.ops.zeros((1, 2, 4)))), 4)  # log 4
    1.3863
    """

    def __init__(self, label_smoothing=0.0, chunk=4096, name="next_token_loss", **kwargs):
        kwargs.setdefault("reduction", "sum_over_batch_size")
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing
        self.chunk = chunk

    def call(self, y_true, y_pred):
        """Loss of each token: targets (B, T), logits (B, T, V) to (B, T)."""
        flat = ops.reshape(y_pred, (-1, y_pred.shape[-1]))
        targets = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        losses, _ = token_losses(ops.cast(flat, "float32"), targets, self.label_smoothing)
        return ops.reshape(losses, ops.shape(y_pred)[:-1])

    def from_hidden_states(self, hidden, head, targets, weights=None, training=True):
        """Scalar loss of hidden states (B, T, D) under the head (V, D) for targets (B, T).

        `weights` (B, T) count each token; None counts all alike. The result is the weighted mean.
        """
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D)
        targets = ops.reshape(ops.cast(targets, "int32"), (-1,))  # (M,)
        if weights is None:
            weights = ops.ones(ops.shape(targets), "float32")
        weights = ops.reshape(ops.cast(weights, "float32"), (-1,))
        weights = weights / ops.maximum(ops.sum(weights), 1e-9)
        head = ops.convert_to_tensor(head)
        return linear_cross_entropy(
            hidden, head, targets, weights, self.label_smoothing, self.chunk, training
        )

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "chunk": self.chunk,
        }


def token_losses(logits, targets, label_smoothing=0.0):
    """Cross-entropy of each row, and the logarithm of its sum of exponentials.

    Logits (M, V) float32 and targets (M,) to losses (M,) and log-sums (M, 1).

    With smoothing e the target distribution is (1 - e) at the target plus e / V everywhere:
    loss = logsumexp - (1 - e) * logit[target] - e * mean(logits).
    """
    log_total = ops.logsumexp(logits, axis=-1, keepdims=True)  # (M, 1)
    hit = _is_target(logits, targets)
    chosen = ops.sum(ops.where(hit, logits, 0.0), axis=-1)  # (M,)
    losses = log_total[:, 0] - (1.0 - label_smoothing) * chosen
    if label_smoothing:
        losses = losses - label_smoothing * ops.mean(logits, axis=-1)
    return losses, log_total


def linear_cross_entropy(hidden, head, targets, weights, label_smoothing, chunk, training):
    """sum_i weights[i] * cross_entropy(hidden[i] @ head.T, targets[i]).

    Args:
        hidden: (M, D). head: (V, D). targets: (M,) int32. weights: (M,) float32.
        chunk: rows at a time. training: also prepare the gradient.
    """
    rows = hidden.shape[0]
    starts = [0] if rows is None else range(0, rows, chunk)
    pieces = [(s, None if rows is None else min(s + chunk, rows)) for s in starts]

    def one_chunk(hidden, head, start, end):
        x, y, w = hidden[start:end], targets[start:end], weights[start:end]
        head = ops.transpose(ops.cast(head, x.dtype))  # (D, V)
        logits = ops.cast(backend.dense(x, head), "float32")  # (chunk, V)
        losses, log_total = token_losses(logits, y, label_smoothing)
        return x, y, w, logits, log_total, ops.sum(losses * w)

    if not training:
        return sum(one_chunk(hidden, head, *piece)[-1] for piece in pieces)

    def loss_with_gradient(hidden, head):
        total, hidden_slopes, head_slope = 0.0, [], 0.0
        for piece in pieces:
            x, y, w, logits, log_total, loss = one_chunk(hidden, head, *piece)
            slope = ops.exp(logits - log_total)  # softmax, (chunk, V)
            if label_smoothing:
                slope = slope - label_smoothing / head.shape[0]
            slope = ops.where(_is_target(logits, y), slope - (1.0 - label_smoothing), slope)
            slope = ops.cast(slope, x.dtype)
            hidden_slope = backend.dense(slope, ops.cast(head, x.dtype))  # (chunk, D)
            hidden_slopes.append(ops.cast(hidden_slope, "float32") * w[:, None])
            weighted = slope * ops.cast(w * UNDERFLOW_GUARD, x.dtype)[:, None]
            head_slope = head_slope + ops.cast(
                backend.dense(ops.transpose(weighted), x), "float32"
            )  # (V, D)
            total = total + loss
        hidden_slope = ops.concatenate(hidden_slopes, axis=0)

        def pullback(upstream):
            return (
                ops.cast(hidden_slope * upstream, hidden.dtype),
                ops.cast(head_slope * (upstream / UNDERFLOW_GUARD), head.dtype),
            )

        return total, pullback

    return backend.custom_gradient(loss_with_gradient)(hidden, head)


UNDERFLOW_GUARD = 1024.0  # keeps weights of about 1 / M above float16's smallest numbers


def _is_target(logits, targets):
    """(M, V) booleans, true in each row's target column: a comparison, not a one-hot array."""
    return ops.arange(logits.shape[-1], dtype="int32")[None, :] == targets[:, None]
