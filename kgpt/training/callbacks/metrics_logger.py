"""A row of metrics every few steps: loss, learning rate, gradient norm, tokens a second, MFU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import unwrap_optimizer

MIN_TIMED_S = 1e-4  # a rate over less time says nothing
MetricsRow = dict[str, Any]
Tensor = Any


class MetricsLogger(StepCallback):
    """Writes metrics.jsonl and keeps the progress in status.json up to date.

    Args:
        status: the `StatusWriter` of the run.
        every: steps between rows; the first step has a row, too.
        total_steps: where training ends.
        tokens_per_step: tokens in one update.
        tokens_per_epoch: tokens of the training set.
        flops_per_token: of forward and backward pass.
        peak_flops: FLOP/s of the device; with it rows have `mfu`, model FLOPs utilization.
        hardware: what each row says of the machine, such as `HardwareMonitor.sample`.
        listeners: functions called with each row, after it is written.
        tokens_seen: before the first step, when a run is resumed; `tokens_per_step` for each step
            before it when not given.
        metric_names: what rows show besides the loss of what a training batch logs, each the value
            of the last batch of a step.
    """

    def __init__(
        self,
        status: StatusWriter,
        every: int,
        total_steps: int,
        tokens_per_step: int,
        tokens_per_epoch: int,
        flops_per_token: float = 0,
        peak_flops: float | None = None,
        hardware: Callable[[], MetricsRow] = dict,
        listeners: Iterable[Callable[[MetricsRow], None]] = (),
        tokens_seen: int | None = None,
        metric_names: Sequence[str] = (),
    ):
        super().__init__()
        self.status, self.every, self.total_steps = status, every, total_steps
        self.tokens_per_step, self.tokens_per_epoch = tokens_per_step, tokens_per_epoch
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.hardware, self.listeners = hardware, list(listeners)
        self.tokens_seen, self.metric_names = tokens_seen, metric_names
        self._losses: list[Tensor] = []  # of the batches of the current update, on the device
        self._last_row = (-1, 0.0)  # step and training time of the last row; -1 if there is none

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.tokens_seen is None:
            self.tokens_seen = self.step * self.tokens_per_step
        self.status.update(state="compiling", step=self.step, total_steps=self.total_steps)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._losses.append((logs or {})["loss"])
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step: int, logs: Logs) -> None:
        losses, self._losses = self._losses, []
        self._note_progress()
        is_first = self._last_row[0] < 0
        is_due = step % self.every == 0 or step == self.total_steps
        if not (is_first or is_due or "val_loss" in logs):
            return
        others = {name: logs[name] for name in self.metric_names if name in logs}
        values = read_step(self.model, losses, others)  # waits until the step is done
        if is_first:
            self._last_row = (step, self._training_time())
            self.status.update(state="training")
        row = {"step": step, "time": round(time.time(), 3), **values}
        row |= {name: value for name, value in logs.items() if name.startswith("val_")}
        row |= self._throughput(step) | self.hardware()
        self._publish(step, row)

    def _note_progress(self) -> None:
        """At every step, so that a pause or a stop between two rows shows where it came."""
        self.tokens_seen = (self.tokens_seen or 0) + self.tokens_per_step
        epoch = round(self.tokens_seen / max(1, self.tokens_per_epoch), 4)
        self.status.note(step=self.step, tokens_seen=self.tokens_seen, epoch=epoch)

    def _training_time(self) -> float:
        """Seconds on a clock that stands still while validating, sampling, saving or paused."""
        return time.perf_counter() - self.status.non_training_s

    def _throughput(self, step: int) -> MetricsRow:
        """Tokens a second since the last row, and the MFU; empty where no time was measured."""
        last_step, last_time = self._last_row
        now = self._training_time()
        if step == last_step or now - last_time < MIN_TIMED_S:
            return {}
        tokens_per_s = (step - last_step) * self.tokens_per_step / (now - last_time)
        self._last_row = (step, now)
        row = {"tokens_per_s": round(tokens_per_s, 1)}
        if self.peak_flops:
            row["mfu"] = round(tokens_per_s * self.flops_per_token / self.peak_flops, 4)
        return row

    def _publish(self, step: int, row: MetricsRow) -> None:
        remaining = (self.total_steps - step) * self.tokens_per_step
        rate = row.get("tokens_per_s")
        self.status.update(eta_s=remaining / rate if rate else None)
        if self.status.run is not None:
            self.status.run.append("metrics", row)
        for listener in self.listeners:
            listener(row)


def read_step(
    model: keras.Model, losses: Sequence[Tensor], others: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """The mean loss over the batches of one update, the learning rate and the gradient norm.

    Args:
        model: in training.
        losses: of the batches of the update.
        others: read with them, if any.
    """
    optimizer = unwrap_optimizer(model.optimizer)
    rate = keras_internals.learning_rate(optimizer)
    tensors = {"loss": losses, "lr": backend.read_optimizer_var(model, rate)}
    norm = getattr(optimizer, "gradient_norm", None)
    if norm is not None:
        tensors["grad_norm"] = backend.read_optimizer_var(model, norm)
    values = backend.to_host(tensors | dict(others or {}))
    values["loss"] = sum(map(float, values["loss"])) / len(losses)
    return {name: float(value) for name, value in values.items()}
