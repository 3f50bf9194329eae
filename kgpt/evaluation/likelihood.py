"""Log-likelihoods of windows of text, many at a time, with never more logits than a chunk holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import default_loss_chunk
from kgpt.evaluation.positions import by_position
from kgpt.evaluation.windows import Window
from kgpt.model.gpt import GPT
from kgpt.model.hidden_state_loss import HIDDEN_STATES_OF
from kgpt.training.losses import token_losses

Tensor = Any
MIN_LENGTH = 32  # tokens of the shortest batches
Progress = Callable[[int], None]  # called with a number of tokens


class Scorer(Protocol):
    """Something that gives texts likelihoods: a model here or behind a server.

    Attributes:
        context: tokens of a window, at most.
    """

    @property
    def context(self) -> int: ...

    def losses(
        self,
        windows: Sequence[Window],
        progress: Progress = ...,
        positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """(W,) float64: the sum of each window's -log p of the targets that count, in nats.

        Args:
            positions: (W, 2, P), where `by_position` of each window is put.
        """


class ModelScorer:
    """The likelihoods of a model in this process.

    Args:
        model: its weights may change between calls.
        batch_tokens: tokens of a forward pass; windows of similar length share one.
        chunk: tokens whose logits are in memory at a time; as in training when not given.
    """

    def __init__(self, model: GPT, batch_tokens: int = 4096, chunk: int | None = None):
        self.model, self.batch_tokens = model, batch_tokens
        vocab_size = model.config.known_vocab_size
        memory = backend.device_memory()
        self.chunk = chunk or default_loss_chunk(vocab_size, "float32", memory)
        self._forward = backend.jit(self._target_losses, model.variables)

    @property
    def context(self) -> int:
        return self.model.max_length

    def losses(
        self,
        windows: Sequence[Window],
        progress: Progress = lambda _: None,
        positions: np.ndarray | None = None,
    ) -> np.ndarray:
        """See `Scorer.losses`."""
        found = np.zeros(len(windows))
        sizes = [len(window) for window in windows]
        lengths = bucket_lengths(max(sizes, default=1), self.context)
        waiting: tuple[list[int], Tensor] | None = None
        for rows, length in batches(sizes, lengths, self.batch_tokens):
            size = max(1, self.batch_tokens // length)
            losses = self._forward(*padded([windows[row] for row in rows], size, length))
            if waiting is not None:  # the device computes one batch while another is read
                self._read(found, windows, *waiting, progress, positions)
            waiting = rows, losses
        if waiting is not None:
            self._read(found, windows, *waiting, progress, positions)
        return found

    def _read(
        self,
        found: np.ndarray,
        windows: Sequence[Window],
        rows: list[int],
        losses: Tensor,
        progress: Progress,
        positions: np.ndarray | None,
    ) -> None:
        values = np.asarray(backend.to_host(losses), "float64")[: len(rows)]  # (rows, T)
        weights = np.zeros_like(values)
        for place, row in zip(weights, rows, strict=True):
            place[: len(windows[row])] = windows[row].weights
        found[rows] = (values * weights).sum(axis=1)
        if positions is not None:
            positions[rows] = by_position(values, weights)
        progress(sum(len(windows[row]) for row in rows))

    def _target_losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B, T) losses of targets (B, T)."""
        return losses_of_targets(self.model, inputs, targets, self.chunk)


def losses_of_targets(
    model: GPT, inputs: Any, targets: Tensor, chunk: int, training: bool = False
) -> Tensor:
    """(B, T) losses in nats of targets (B, T), with the logits of `chunk` tokens in memory."""
    hidden = model({HIDDEN_STATES_OF: inputs}, training=training)  # (B, T, D)
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (M, D), M = B * T
    flat, rows = ops.reshape(targets, (-1,)), hidden.shape[0]
    parts = [slice(i, min(i + chunk, rows)) for i in range(0, rows, chunk)]
    logits = (ops.cast(model.unembed(hidden[part]), "float32") for part in parts)
    losses = [token_losses(some, flat[part])[0] for some, part in zip(logits, parts, strict=True)]
    return ops.reshape(ops.concatenate(losses, axis=0), ops.shape(targets))


def bucket_lengths(longest: int, context: int) -> list[int]:
    """The lengths that batches are padded to, each at most half as long again as the one before.

    >>> bucket_lengths(180, 1024)
    [32, 48, 64, 96, 128, 192]
    """
    lengths, step = [], MIN_LENGTH
    while step < longest:
        lengths += [step, step * 3 // 2]
        step *= 2
    last = min(-(-longest // MIN_LENGTH) * MIN_LENGTH, context)
    return [*(length for length in lengths if length < last), last]


def batches(
    sizes: Sequence[int], lengths: Sequence[int], batch_tokens: int
) -> Iterator[tuple[list[int], int]]:
    """Rows of similar size, as many as `batch_tokens` allow, and the length they are padded to.

    What is left of a bucket goes with the next longer one, so that only the last batch is not full.

    Args:
        sizes: (rows,) tokens of each, none above the last of the `lengths`.
    """
    order = np.argsort(sizes, kind="stable")
    first, ends = 0, np.searchsorted(np.asarray(sizes)[order], lengths, side="right")
    for length, end in zip(lengths, ends.tolist(), strict=True):
        count = max(1, batch_tokens // length)
        while end - first >= count or (length == lengths[-1] and first < end):
            yield order[first : min(first + count, end)].tolist(), length
            first += count


def padded(windows: Sequence[Window], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (rows, length) of windows."""
    inputs, targets = (np.zeros((rows, length), "int32") for _ in range(2))
    for row, window in enumerate(windows):
        inputs[row, : len(window)] = window.inputs
        targets[row, : len(window)] = window.targets
    return inputs, targets
