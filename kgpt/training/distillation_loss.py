"""The loss of knowledge distillation (Hinton et al., 2015), which stores no (B, T, V) logits.

For each token, with logits s of the student and t of the teacher, and a temperature T:

    (1 - alpha) * cross_entropy(s, target) + alpha * T^2 * KL(softmax(t / T) || softmax(s / T))

T^2 keeps the gradient of the soft part as large as without a temperature. Both heads are applied to
a chunk of tokens at a time, and the gradient is computed while a chunk's logits exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras import ops

from kgpt.training.losses import (
    ChunkFunctions,
    backpropagate,
    chunk_logits,
    cross_entropy_dlogits,
    linear_cross_entropy,
    normalized,
    token_losses,
)

Tensor = Any
MASKED_LOGIT = -1e30  # finite, so that 0 * log 0 is 0


@dataclass(frozen=True)
class SoftTargets:
    """What M tokens are to learn; sliced like an array of M rows.

    Attributes:
        ids: (M,) int32, the next tokens.
        hidden: (M, Dt), the teacher's final hidden states.
        head: (V, Dt), the teacher's output embeddings.
    """

    ids: Tensor
    hidden: Tensor
    head: Tensor

    def __getitem__(self, part: slice) -> SoftTargets:
        return SoftTargets(self.ids[part], self.hidden[part], self.head)


@dataclass(frozen=True)
class DistillationOptions:
    """The numbers in the formula.

    Attributes:
        temperature: T.
        alpha: share of the soft loss; the rest is that of the cross-entropy.
        top_k: keep the k most likely tokens of the teacher, renormalised; None for all.
    """

    temperature: float = 2.0
    alpha: float = 0.5
    top_k: int | None = None


def distillation_loss(
    hidden: Tensor,
    head: Tensor,
    targets: SoftTargets,
    weights: Tensor | None,
    options: DistillationOptions,
    label_smoothing: float = 0.0,
    chunk: int = 4096,
    head_trainable: bool = True,
) -> Tensor:
    """The weighted mean loss, a scalar with gradients for `hidden` and `head`.

    Args:
        hidden: (B, T, D) of the student. head: (V, D), its output embeddings.
        targets: of the B * T tokens.
        weights: (B, T) weight of each token in the mean; None weighs all alike.
        label_smoothing: of the cross-entropy.
        chunk: tokens whose logits, of both models, are in memory at a time.
        head_trainable: the gradient for the head too.
    """
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D)

    def gradient(
        x: Tensor, table: Tensor, y: SoftTargets, w: Tensor, dhead: Tensor, *rest: Any
    ) -> Any:
        return chunk_distillation_gradient(x, table, y, w, dhead, options, *rest)

    functions = ChunkFunctions(None, gradient)
    return linear_cross_entropy(
        hidden, ops.convert_to_tensor(head), targets, normalized(weights, targets.ids),
        label_smoothing, chunk, True, functions, head_trainable,
    )  # fmt: skip


def chunk_distillation_gradient(
    x: Tensor,
    table: Tensor,
    y: SoftTargets,
    w: Tensor,
    dhead: Tensor | None,
    options: DistillationOptions,
    label_smoothing: float = 0.0,
    head_trainable: bool = True,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss of x (M, D), its gradient for x, and that for the table added to `dhead`.

    See `kgpt.training.losses.chunk_gradient`.
    """
    logits, alpha = chunk_logits(x, table), options.alpha
    losses, dlogits = 0.0, 0.0
    if alpha < 1:
        hard, logsumexp = token_losses(logits, y.ids, label_smoothing)
        losses = (1 - alpha) * hard
        dlogits = (1 - alpha) * cross_entropy_dlogits(logits, logsumexp, y.ids, label_smoothing)
    if alpha > 0:
        teacher = chunk_logits(y.hidden, ops.cast(y.head, y.hidden.dtype))
        soft, dsoft = soft_losses(logits, teacher, options)
        losses, dlogits = losses + alpha * soft, dlogits + alpha * dsoft
    dx, dhead = backpropagate(dlogits, x, table, w, dhead, head_trainable)
    return ops.sum(losses * w), dx, dhead


def soft_losses(
    logits: Tensor, teacher: Tensor, options: DistillationOptions
) -> tuple[Tensor, Tensor]:
    """T^2 * KL(teacher || student) (M,), and its gradient (M, V) for the student's logits.

    Both logits are (M, V) float32.
    """
    temperature = options.temperature
    teacher = teacher / temperature
    if options.top_k is not None and options.top_k < teacher.shape[-1]:
        least = ops.top_k(teacher, options.top_k)[0][:, -1:]  # (M, 1)
        teacher = ops.where(teacher >= least, teacher, MASKED_LOGIT)
    log_p, log_q = ops.log_softmax(teacher, axis=-1), ops.log_softmax(logits / temperature, axis=-1)
    p = ops.exp(log_p)
    divergence = ops.sum(p * (log_p - log_q), axis=-1)  # (M,)
    return temperature**2 * divergence, temperature * (ops.exp(log_q) - p)
