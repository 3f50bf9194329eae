"""A row of metrics every few steps: loss, learning rate, gradient norm, speed."""

from __future__ import annotations

import time

from kgpt import backend
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.optimizers import unwrap_optimizer


class MetricsLogger(StepCallback):
    """Writes metrics.jsonl and keeps the status's figures up to date.

    Args:
        status: the `StatusWriter`; it knows the run.
        every: steps between rows; the first step has a row, too.
        total_steps: where training ends.
        tokens_per_step: tokens that go into one update.
        tokens_per_epoch: tokens of the training set.
        flops_per_token: of training; with `peak_flops` (a second) it gives the share of the peak.
        listeners: functions called with each row, after it is written.
    """

    def __init__(
        self, status: StatusWriter, every, total_steps, tokens_per_step, tokens_per_epoch,
        flops_per_token=0, peak_flops=None, listeners=(),
    ):  # fmt: skip
        super().__init__()
        self.status, self.every, self.total_steps = status, every, total_steps
        self.tokens_per_step, self.tokens_per_epoch = tokens_per_step, tokens_per_epoch
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.listeners = list(listeners)
        self._losses: list[float] = []
        self._mark = (-1, 0.0)  # step and time of the last row; no step yet

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.status.update(state="compiling", step=self.step, total_steps=self.total_steps)

    def on_train_batch_end(self, batch, logs=None):
        self._losses.append(float(logs["loss"]))
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step, logs):
        loss = sum(self._losses) / len(self._losses)  # over the batches of one update
        self._losses.clear()
        first = self._mark[0] < 0
        if first:
            self._mark = (step, self._training_time())
            self.status.update(state="training")
        validated = "val_loss" in logs
        if not (first or validated or step % self.every == 0 or step == self.total_steps):
            return
        row = {"step": step, "time": round(time.time(), 3), "loss": loss, **self._rates()}
        row |= {name: value for name, value in logs.items() if name.startswith("val_")}
        row |= self._speed(step)
        self._publish(step, row)

    def _training_time(self) -> float:
        return time.perf_counter() - self.status.non_training_s

    def _rates(self):
        optimizer = unwrap_optimizer(self.model.optimizer)
        rates = {"lr": float(backend.read_optimizer_var(self.model, optimizer._learning_rate))}
        norm = getattr(optimizer, "gradient_norm", None)
        if norm is not None:
            rates["grad_norm"] = float(backend.read_optimizer_var(self.model, norm))
        return rates

    def _speed(self, step):
        """Tokens a second since the last row, and the share of the peak that makes."""
        since, then = self._mark
        if step == since:
            return {}
        now = self._training_time()
        tokens_per_s = (step - since) * self.tokens_per_step / max(1e-9, now - then)
        self._mark = (step, now)
        speed = {"tokens_per_s": round(tokens_per_s, 1)}
        if self.peak_flops:
            speed["mfu"] = round(tokens_per_s * self.flops_per_token / self.peak_flops, 4)
        return speed

    def _publish(self, step, row):
        tokens_seen = step * self.tokens_per_step
        left = (self.total_steps - step) * self.tokens_per_step
        self.status.update(
            step=step,
            tokens_seen=tokens_seen,
            epoch=round(tokens_seen / max(1, self.tokens_per_epoch), 4),
            eta_s=left / row["tokens_per_s"] if row.get("tokens_per_s") else None,
        )
        if self.status.run is not None:
            self.status.run.append("metrics", row)
        for listener in self.listeners:
            listener(row)
