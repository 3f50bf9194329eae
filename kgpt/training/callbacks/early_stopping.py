"""When to stop early: a loss that is no number, or a validation that no longer improves."""

from __future__ import annotations

import math

from kgpt import backend
from kgpt.errors import TrainingFailed
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.optimizers import unwrap_optimizer


class StopOnNaN(StepCallback):
    """Raises `TrainingFailed` at the first loss or gradient that is not finite.

    It comes before the checkpoints, so that a spoiled model is never saved.
    """

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise self._failure("loss", logs["loss"])
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step, logs):
        norm = getattr(unwrap_optimizer(self.model.optimizer), "gradient_norm", None)
        value = 0.0 if norm is None else float(backend.read_optimizer_var(self.model, norm))
        if not math.isfinite(value):
            raise self._failure("gradient", value)

    def _failure(self, what, value):
        return TrainingFailed(
            f"The {what} became {value} at step {self.step + 1}; the last checkpoint is kept: "
            "lower train.learning_rate, or set train.max_grad_norm, and resume."
        )


class EarlyStopping(StepCallback):
    """Stops when `patience` validations in a row brought no lower loss.

    Args:
        patience: how many.
        history: validation losses from before, when a run is resumed.
    """

    def __init__(self, patience, history=()):
        super().__init__()
        self.patience = patience
        self.best, self.waited = math.inf, 0
        for loss in history:
            self._take(loss)

    def on_step_end(self, step, logs):
        if "val_loss" in logs:
            self._take(logs["val_loss"])
            self.model.stop_training = self.waited >= self.patience

    def _take(self, loss):
        self.waited = 0 if loss < self.best else self.waited + 1
        self.best = min(self.best, loss)
