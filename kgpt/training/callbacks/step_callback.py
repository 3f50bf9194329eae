"""Callbacks that count updates of the weights, not batches."""

import keras

from kgpt.training.optimizers import unwrap_optimizer


class StepCallback(keras.callbacks.Callback):
    """A callback told of every *step*, one update of the weights, by its number.

    The number is the optimizer's, so it goes on where a resumed run stopped, and a step has as
    many batches as gradients are accumulated. A step that float16 skips, because its gradient is
    not finite, counts as one. Subclasses override `on_step_begin(step)` (the step
    about to be made) and `on_step_end(step, logs)` (the step just made).
    """

    step = 0
    accumulation = 1

    def on_train_begin(self, logs=None):
        optimizer = unwrap_optimizer(self.model.optimizer)
        self.accumulation = optimizer.gradient_accumulation_steps or 1
        self.step = int(optimizer.iterations) + getattr(self.model, "skipped_steps", 0)

    def on_train_batch_begin(self, batch, logs=None):
        if batch % self.accumulation == 0:
            self.on_step_begin(self.step + 1)

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.accumulation == 0:
            self.step += 1
            self.on_step_end(self.step, logs)

    def on_step_begin(self, step):
        """Before step number `step`; the first is 1."""

    def on_step_end(self, step, logs):
        """After step number `step`, with the logs of its last batch."""
