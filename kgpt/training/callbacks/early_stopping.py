"""When to stop early: a loss that is not finite, or a validation loss that no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from kgpt import backend
from kgpt.errors import TrainingFailed
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import unwrap_optimizer


class StopOnNaN(StepCallback):
    """Raises `TrainingFailed` if a loss or a gradient norm was not finite.

    It reads them, and so waits for the device, at some steps only. The first value that is not
    finite stays in what it reads: see `TokenLoss` and `gradient_norm`. It runs before whatever uses
    the weights, so that such weights are neither saved nor validated.

    Args:
        every: steps between two checks, several such numbers; 0 in it counts for nothing.
        total_steps: the last step, which is always checked; so is the first.
    """

    def __init__(self, every: Iterable[int] = (1,), total_steps: int | None = None):
        super().__init__()
        self.every, self.total_steps = [n for n in every if n], total_steps
        self._logs: Logs = {}
        self._finite_until: int | None = None  # all steps up to this one are known to be finite

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._logs = logs
        is_due = any(step % n == 0 for n in self.every) or step == self.total_steps
        if is_due or self._finite_until is None:
            self.check()

    def check(self) -> None:
        """Check all steps so far, now."""
        if self._finite_until == self.step:
            return
        norm = getattr(unwrap_optimizer(self.model.optimizer), "gradient_norm", None)
        if norm is not None:
            norm = backend.read_optimizer_var(self.model, norm)
        values = {"loss": self._logs["loss"], "gradient": 0.0 if norm is None else norm}
        for quantity, value in backend.to_host(values).items():
            if not np.isfinite(value):
                raise self._failure(quantity, float(value))
        self._finite_until = self.step

    def _failure(self, quantity: str, value: float) -> TrainingFailed:
        last = self.step
        first = last if self._finite_until is None else self._finite_until + 1
        when = f"at step {last}" if first == last else f"between steps {first} and {last}"
        return TrainingFailed(
            f"The {quantity} became {value} {when}; the last checkpoint is kept: "
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
