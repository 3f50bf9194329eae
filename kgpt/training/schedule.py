"""The learning rate: linear warm-up, then cosine, linear or no decay, in optimizer updates."""

from __future__ import annotations

import math
from typing import Literal

from kgpt import backend
from kgpt.backend import keras_internals
from kgpt.config import TrainConfig
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.optimizers import unwrap_optimizer

Kind = Literal["cosine", "linear", "constant"]


class LRSchedule(StepCallback):
    """Sets the learning rate before each update; works with any Keras optimizer.

    Update n (from 0) of W warm-up updates has the rate max_lr * (n + 1) / (W + 1); then the rate
    decays to `min_lr` at `decay_steps` and stays there. This is nanoGPT's rule, to the step.

    Args:
        max_lr: the highest rate.
        warmup_steps: W, updates of linear warm-up.
        decay_steps: the update at which the decay ends.
        min_lr: the rate from there on.
        kind: "cosine", "linear" or "constant" (no decay).

    Example:

    >>> schedule = LRSchedule(max_lr=1.0, warmup_steps=1, decay_steps=3)
    >>> [round(schedule.at(step), 2) for step in range(5)]
    [0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(
        self,
        max_lr: float,
        warmup_steps: int,
        decay_steps: int,
        min_lr: float = 0.0,
        kind: Kind = "cosine",
    ):
        super().__init__()
        self.max_lr, self.min_lr, self.kind = max_lr, min_lr, kind
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps

    def at(self, step: int) -> float:
        """The rate of update number `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.max_lr * (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.max_lr
        if step >= self.decay_steps:
            return self.min_lr
        progress = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        factor = 0.5 * (1 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        return self.min_lr + factor * (self.max_lr - self.min_lr)

    def on_step_begin(self, step: int) -> None:
        rate = keras_internals.learning_rate(unwrap_optimizer(self.model.optimizer))
        backend.assign_optimizer_var(self.model, rate, self.at(step - 1))


def make_schedule(config: TrainConfig) -> LRSchedule:
    """The schedule of a configuration."""
    return LRSchedule(
        config.learning_rate,
        config.warmup_steps,
        config.decay_steps or config.max_steps,
        config.min_learning_rate,
        config.schedule,
    )


class WarmupCosine(LRSchedule):
    """`LRSchedule` with cosine decay."""

    def __init__(self, max_lr: float, warmup_steps: int, decay_steps: int, min_lr: float = 0.0):
        super().__init__(max_lr, warmup_steps, decay_steps, min_lr, kind="cosine")
