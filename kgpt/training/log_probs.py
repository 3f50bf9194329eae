"""Log-probabilities of tokens, with gradients, that never store (B, T, V) logits.

A loss that is not a sum over tokens, such as DPO's, gives each token its weight only when all of
them are known. So the logits of a chunk are computed twice: for the values, and for the gradient.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from kgpt import backend
from kgpt.training.losses import GRAD_SCALE, chunk_gradient, chunk_logits, token_losses

Tensor = Any
NO_GRADIENT = 1e-30  # in place of a gradient of 0 all over


def token_log_probs(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    chunk: int = 4096,
    training: bool = True,
    head_trainable: bool = True,
    gradient: Any = chunk_gradient,
) -> Tensor:
    """log softmax(hidden @ head.T)[targets]: (B, T) float32.

    Args:
        hidden: (B, T, D) states after the final norm.
        head: (V, D) output embeddings.
        targets: (B, T) token ids.
        chunk: tokens whose logits are in memory at a time.
        training: with a gradient, for `hidden` and for `head`.
        head_trainable: false gives no gradient for the head.
        gradient: `chunk_gradient`, or the same compiled.
    """
    shape = ops.shape(targets)
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D), M = B * T
    targets = ops.reshape(ops.cast(targets, "int32"), (-1,))  # (M,)
    head = ops.convert_to_tensor(head)
    chunks = _chunks(hidden.shape[0], chunk)

    def values(hidden: Tensor, head: Tensor) -> Tensor:
        table = ops.cast(head, hidden.dtype)
        return ops.concatenate([_log_probs(hidden[c], table, targets[c]) for c in chunks], axis=0)

    def with_gradient(hidden: Tensor, head: Tensor) -> tuple[Tensor, Any]:
        def pullback(upstream: Tensor) -> Any:
            table = ops.cast(head, hidden.dtype)
            total = ops.sum(ops.abs(upstream)) + NO_GRADIENT
            weights = -upstream / total  # as large as the weights of a mean, whatever the loss
            parts, dhead = [], None
            for c in chunks:
                part = hidden[c], table, targets[c], weights[c]
                _, dx, dhead = gradient(*part, dhead, 0.0, head_trainable)
                parts.append(dx)
            dhidden = ops.cast(ops.concatenate(parts, axis=0) * total, hidden.dtype)
            if dhead is None:
                return dhidden
            return dhidden, ops.cast(dhead * (total / GRAD_SCALE), head.dtype)

        return values(hidden, head), pullback

    if not training:
        return ops.reshape(values(hidden, head), shape)
    if not head_trainable:
        of_hidden = backend.custom_gradient(lambda hidden: with_gradient(hidden, head))
        return ops.reshape(of_hidden(hidden), shape)
    return ops.reshape(backend.custom_gradient(with_gradient)(hidden, head), shape)


def _chunks(rows: int | None, size: int) -> list[slice]:
    """Slices of `size` of a number of rows; one of all where the number is not known."""
    if rows is None:
        return [slice(None)]
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _log_probs(x: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """(m,) of x (m, D) for `targets` (m,); `table` is (V, D)."""
    return -token_losses(chunk_logits(x, table), targets)[0]
