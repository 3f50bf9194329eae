"""When to stop early: a loss that is not finite, or a validation loss that no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kgpt import backend
from kgpt.errors import TrainingFailed
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import unwrap_optimizer


class StopOnNaN(StepCallback):
    """Raises `TrainingFailed` at the first loss or gradient norm that is not finite.

    It runs before the checkpoints, so that such weights are never saved.
    """

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            raise self._failure("loss", loss)
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step: int, logs: Logs) -> None:
        norm = getattr(unwrap_optimizer(self.model.optimizer), "gradient_norm", None)
        value = 0.0 if norm is None else float(backend.read_optimizer_var(self.model, norm))
        if not math.isfinite(value):
            raise self._failure("gradient", value)

    def _failure(self, quantity: str, value: float) -> TrainingFailed:
        return TrainingFailed(
            f"The {quantity} became {value} at step {self.step + 1}; the last checkpoint is kept: "
            "lower train.learning_rate, or set train.max_grad_norm, and resume."
        )


class EarlyStopping(StepCallback):
    """Stops after `patience` validations in a row without a lower loss.

    Args:
        patience: how many.
        history: earlier validation losses, when a run is resumed.
    """

    def __init__(self, patience: int, history: Iterable[float] = ()):
        super().__init__()
        self.patience = patience
        self.best, self.wait = math.inf, 0
        for loss in history:
            self._update(loss)

    def on_step_end(self, step: int, logs: Logs) -> None:
        if "val_loss" in logs:
            self._update(logs["val_loss"])
            self.model.stop_training = self.wait >= self.patience

    def _update(self, loss: float) -> None:
        self.wait = 0 if loss < self.best else self.wait + 1
        self.best = min(self.best, loss)
