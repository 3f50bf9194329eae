"""Next-token cross-entropy that never stores (B, T, V) logits nor one-hot targets.

The output projection and the loss are one operation over chunks of tokens. The gradient is computed
in the forward pass, while a chunk's logits exist, so nothing is computed twice and only one chunk
of logits is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import keras
from keras import ops

from kgpt import backend

Tensor = Any
NO_TOKENS = 1e-9  # in place of a weight of 0; added to 1 it changes nothing
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
        self.functions: ChunkFunctions | None = None

    def compile(self, compiled: bool) -> None:
        """Compile the parts of the step that are the loss's, or do so no more."""
        pair = ChunkFunctions(chunk_loss, chunk_gradient)
        regions = [backend.compile_regions([function])[0] for function in pair]
        self.functions = ChunkFunctions(*regions) if compiled else None

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
        head_trainable: bool = True,
    ) -> Tensor:
        """Scalar loss of hidden states (B, T, D) with output embeddings `head` (V, D).

        Args:
            targets: (B, T) token ids.
            weights: (B, T) weight of each token in the mean; None weighs all alike.
            training: also compute the gradient.
            head_trainable: the gradient for the head too.
        """
        hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D)
        targets = ops.reshape(ops.cast(targets, "int32"), (-1,))  # (M,)
        weights = normalized(weights, targets)
        head = ops.convert_to_tensor(head)
        return linear_cross_entropy(
            hidden, head, targets, weights, self.label_smoothing, self.chunk, training,
            self.functions, head_trainable,
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "chunk": self.chunk,
        }


def normalized(weights: Tensor | None, targets: Tensor) -> Tensor:
    """Weights (M,) that sum to 1, of `weights` (B, T), or equal ones of `targets` (M,)."""
    if weights is None:
        weights = ops.ones(ops.shape(targets), "float32")
    weights = ops.reshape(ops.cast(weights, "float32"), (-1,))  # (M,)
    return weights / (ops.sum(weights) + NO_TOKENS)


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


class ChunkFunctions(NamedTuple):
    """`chunk_loss` and `chunk_gradient`, or both compiled."""

    loss: Any
    gradient: Any


def linear_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    weights: Tensor,
    label_smoothing: float,
    chunk: int,
    training: bool,
    functions: ChunkFunctions | None = None,
    head_trainable: bool = True,
) -> Tensor:
    """sum_i weights[i] * cross_entropy(hidden[i] @ head.T, targets[i]).

    Args:
        hidden: (M, D).
        head: (V, D).
        targets: (M,) int32.
        weights: (M,) float32.
        chunk: rows at a time.
        training: also compute the gradient, for hidden and head.
        functions: of one chunk; None for `chunk_loss` and `chunk_gradient`.
        head_trainable: false computes no gradient for the head.
    """
    functions = functions or ChunkFunctions(chunk_loss, chunk_gradient)
    chunks = Chunks.of(hidden.shape[0], chunk)

    if not training:
        table = ops.cast(head, hidden.dtype)
        parts = zip(*(chunks.split(x) for x in (hidden, targets, weights)), strict=True)
        return sum(functions.loss(x, table, y, w, label_smoothing) for x, y, w in parts)

    def loss_with_gradient(hidden: Tensor, head: Tensor) -> tuple[Tensor, Any]:
        table = ops.cast(head, hidden.dtype)
        total, dhidden_chunks, dhead = 0.0, [], None
        parts = zip(*(chunks.split(x) for x in (hidden, targets, weights)), strict=True)
        for x, y, w in parts:
            loss, dx, dhead = functions.gradient(
                x, table, y, w, dhead, label_smoothing, head_trainable
            )
            dhidden_chunks.append(dx)
            total = total + loss
        dhidden = chunks.join(dhidden_chunks)  # (M, D)

        def pullback(upstream: Tensor) -> Any:
            dx = ops.cast(dhidden * upstream, hidden.dtype)
            if dhead is None:
                return dx
            return dx, ops.cast(dhead * (upstream / GRAD_SCALE), head.dtype)

        return total, pullback

    if not head_trainable:
        return backend.custom_gradient(lambda hidden: loss_with_gradient(hidden, head))(hidden)
    return backend.custom_gradient(loss_with_gradient)(hidden, head)


@dataclass(frozen=True)
class Chunks:
    """How the rows (M, ...) of a batch are cut into chunks.

    Rows that are divided among devices are cut on each of them, so that none moves.

    Attributes:
        bounds: of each chunk, among the rows of a device.
        shards: how many devices the rows are divided among.
    """

    bounds: list[slice]
    shards: int = 1

    @classmethod
    def of(cls, rows: int | None, chunk: int) -> Self:
        """Chunks of up to `chunk` rows a device; one chunk if their number is not known."""
        if rows is None:
            return cls([slice(0, None)])
        shards = backend.distribution.batch_shards()
        shards = shards if rows % shards == 0 else 1
        rows //= shards
        return cls([slice(i, min(i + chunk, rows)) for i in range(0, rows, chunk)], shards)

    def split(self, x: Tensor) -> Iterator[Tensor]:
        """The chunks of x (M, ...)."""
        if self.shards > 1:
            x = ops.reshape(x, (self.shards, -1, *x.shape[1:]))
        for part in self.bounds:
            yield x[part] if self.shards == 1 else ops.reshape(x[:, part], (-1, *x.shape[2:]))

    def join(self, parts: list[Tensor]) -> Tensor:
        """x (M, ...) again from what was made of its chunks."""
        if self.shards == 1:
            return ops.concatenate(parts, axis=0)
        parts = [ops.reshape(part, (self.shards, -1, *part.shape[1:])) for part in parts]
        return ops.reshape(ops.concatenate(parts, axis=1), (-1, *parts[0].shape[2:]))


def chunk_loss(x: Tensor, table: Tensor, y: Tensor, w: Tensor, label_smoothing: float) -> Tensor:
    """Weighted sum of the losses of x (M, D) for targets y (M,); `table` is (V, D)."""
    losses, _ = token_losses(chunk_logits(x, table), y, label_smoothing)
    return ops.sum(losses * w)


def chunk_gradient(
    x: Tensor,
    table: Tensor,
    y: Tensor,
    w: Tensor,
    dhead: Tensor | None,
    label_smoothing: float,
    head_trainable: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`chunk_loss`, its gradient for x, and the gradient for the table added to `dhead`.

    Both gradients are float32; the table's is GRAD_SCALE times as large. It is None if the head
    is not trainable.
    """
    logits = chunk_logits(x, table)
    losses, logsumexp = token_losses(logits, y, label_smoothing)
    dx, dhead = backpropagate(  # which drops the float32 gradient as soon as it is cast
        cross_entropy_dlogits(logits, logsumexp, y, label_smoothing),
        x, table, w, dhead, head_trainable,
    )  # fmt: skip
    return ops.sum(losses * w), dx, dhead


def cross_entropy_dlogits(
    logits: Tensor, logsumexp: Tensor, y: Tensor, label_smoothing: float
) -> Tensor:
    """The gradient (M, V) of each row's `token_losses`: softmax minus the target distribution."""
    dlogits = ops.exp(logits - logsumexp)  # softmax, (M, V)
    if label_smoothing:
        dlogits = dlogits - label_smoothing / logits.shape[-1]
    return ops.where(_target_mask(logits, y), dlogits - (1.0 - label_smoothing), dlogits)


def backpropagate(
    dlogits: Tensor, x: Tensor, table: Tensor, w: Tensor, dhead: Tensor | None, head_trainable: bool
) -> tuple[Tensor, Tensor | None]:
    """From the gradient of logits x @ table.T to those for x and for the table: `chunk_gradient`.

    Args:
        dlogits: (M, V) of each row's loss, which counts by its weight `w` (M,).
    """
    dlogits = ops.cast(dlogits, x.dtype)
    dx = ops.cast(backend.dense(dlogits, table), "float32") * w[:, None]  # (M, D)
    if not head_trainable:
        return dx, None
    scaled = dlogits * ops.cast(w * GRAD_SCALE, x.dtype)[:, None]
    dtable = ops.cast(backend.dense(ops.transpose(scaled), x), "float32")  # (V, D)
    return dx, dtable if dhead is None else dhead + dtable


def chunk_logits(x: Tensor, table: Tensor) -> Tensor:
    """float32 (M, V)."""
    return ops.cast(backend.dense(x, ops.transpose(table)), "float32")


def _target_mask(logits: Tensor, targets: Tensor) -> Tensor:
    """(M, V) booleans, true in each row's target column: a comparison, not a one-hot array."""
    return ops.arange(logits.shape[-1], dtype="int32")[None, :] == targets[:, None]
