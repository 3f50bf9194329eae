"""Callbacks that count updates of the weights, not batches."""

from __future__ import annotations

from typing import Any

import keras

from kgpt.training.optimizers import unwrap_optimizer

Logs = dict[str, Any]


class StepCallback(keras.callbacks.Callback):
    """A callback called once a *step*, one update of the weights, with its number.

    The number is the optimizer's, so it continues where a resumed run stopped, and a step has as
    many batches as gradients are accumulated. A step that float16 skips, because its gradient is
    not finite, counts as one. Subclasses override `on_step_begin` and `on_step_end`.
    """

    step = 0
    accumulation = 1

    def on_train_begin(self, logs: Logs | None = None) -> None:
        optimizer = unwrap_optimizer(self.model.optimizer)
        self.accumulation = optimizer.gradient_accumulation_steps or 1
        self.step = int(optimizer.iterations) + getattr(self.model, "skipped_steps", 0)

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        if batch % self.accumulation == 0:
            self.on_step_begin(self.step + 1)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if (batch + 1) % self.accumulation == 0:
            self.step += 1
            self.on_step_end(self.step, {} if logs is None else logs)

    def on_step_begin(self, step: int) -> None:
        """Before step number `step`; the first is 1."""

    def on_step_end(self, step: int, logs: Logs) -> None:
        """After step number `step`, with the logs of its last batch, which may be added to."""
