"""Validation every N steps: the mean loss over all validation tokens, perplexity, bits per byte."""

from __future__ import annotations

import math

import keras

from kgpt import backend
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.optimizers import swap_in_ema_weights


class Validation(StepCallback):
    """Adds `val_loss`, `val_perplexity` and `val_bits_per_byte` to the logs.

    The weights are the EMA if the optimizer keeps one.

    Args:
        dataset: what is evaluated, such as `kgpt.EvaluationDataset`.
        every: steps between validations; the last step has one, too.
        total_steps: the last step.
        bytes_per_token: mean UTF-8 bytes a token stands for; None leaves bits per byte out.
        status: shows "validating" meanwhile.
    """

    def __init__(
        self,
        dataset: keras.utils.PyDataset,
        every: int,
        total_steps: int,
        bytes_per_token: float | None = None,
        status: StatusWriter | None = None,
    ):
        super().__init__()
        self.dataset = backend.prefetch(dataset)
        self.every, self.total_steps = every, total_steps
        self.bytes_per_token = bytes_per_token
        self.status = status or StatusWriter(None)

    def on_step_end(self, step: int, logs: Logs) -> None:
        if step % self.every and step != self.total_steps:
            return
        backend.sync_model_state(self.model)
        with self.status.state("validating"), swap_in_ema_weights(self.model):
            found = self.model.evaluate(self.dataset, verbose=0, return_dict=True)
        logs.update(self.values({name: float(value) for name, value in found.items()}))

    def values(self, found: dict[str, float]) -> Logs:
        """What is logged of the metrics that `evaluate` found."""
        loss = found["loss"]
        perplexity = math.exp(min(loss, 700.0))  # exp(710) overflows
        values = {"val_loss": loss, "val_perplexity": perplexity}
        if self.bytes_per_token:
            values["val_bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
        return values
