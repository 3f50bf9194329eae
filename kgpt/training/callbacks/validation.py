"""Validation every N steps: the mean loss over all validation tokens, and what it means."""

from __future__ import annotations

import contextlib
import math

from keras import ops

from kgpt import backend
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.optimizers import unwrap_optimizer


class Validation(StepCallback):
    """Adds `val_loss`, `val_perplexity` and `val_bits_per_byte` to the logs.

    Args:
        batches: what is evaluated, such as `kgpt.EvaluationDataset`.
        every: steps between validations; the last step has one, too.
        total_steps: the last step.
        bytes_per_token: UTF-8 bytes that a token of this text stands for; None leaves bits out.
        status: shows "validating" meanwhile.
    """

    def __init__(self, batches, every, total_steps, bytes_per_token=None, status=None):
        super().__init__()
        self.batches, self.every, self.total_steps = batches, every, total_steps
        self.bytes_per_token = bytes_per_token
        self.status = status or StatusWriter(None)

    def on_step_end(self, step, logs):
        if step % self.every and step != self.total_steps:
            return
        backend.sync_model_state(self.model)
        with self.status.state("validating"), swap_in_ema_weights(self.model):
            loss = self.model.evaluate(self.batches, verbose=0, return_dict=True)["loss"]
        logs["val_loss"] = float(loss)
        logs["val_perplexity"] = math.exp(min(float(loss), 700.0))
        if self.bytes_per_token:
            logs["val_bits_per_byte"] = float(loss) / math.log(2) / self.bytes_per_token


@contextlib.contextmanager
def swap_in_ema_weights(model):
    """While the block runs the model has its averaged weights, if its optimizer keeps some."""
    optimizer = unwrap_optimizer(model.optimizer)
    averages = getattr(optimizer, "ema_weights", lambda: None)()
    if averages is None or int(optimizer.iterations) == 0:
        yield
        return
    raw = [ops.copy(variable.value) for variable in model.trainable_variables]
    for variable, average in zip(model.trainable_variables, averages, strict=True):
        variable.assign(ops.copy(average.value))
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, raw, strict=True):
            variable.assign(value)
