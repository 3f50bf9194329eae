"""The learning rate: linear warm-up, then cosine, linear or no decay, in optimizer steps."""

import math

from kgpt import backend
from kgpt.training.optimizers import unwrapped
from kgpt.training.steps import StepCallback


class WarmupCosine(StepCallback):
    """Sets the learning rate before each update; works with any Keras optimizer.

    Step n (from 0) of W warm-up steps has the rate peak * (n + 1) / (W + 1); then the rate falls
    to `minimum` at `decay_steps` and stays there. This is nanoGPT's rule, to the step.

    Args:
        peak: the highest rate.
        warmup_steps: W, updates of linear warm-up.
        decay_steps: the update at which the decay ends.
        minimum: the rate from there on.
        kind: "cosine", "linear" or "constant" (no decay).

    Example:

    >>> rate = WarmupCosine(peak=1.0, warmup_steps=1, decay_steps=3)
    >>> [round(rate.at(step), 2) for step in range(5)]
    [0.5, 1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, peak, warmup_steps, decay_steps, minimum=0.0, kind="cosine"):
        super().__init__()
        self.peak, self.minimum, self.kind = peak, minimum, kind
        self.warmup_steps, self.decay_steps = warmup_steps, decay_steps

    def at(self, step):
        """The rate of the update number `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return self.peak
        if step >= self.decay_steps:
            return self.minimum
        done = (step - self.warmup_steps) / (self.decay_steps - self.warmup_steps)
        share = 0.5 * (1 + math.cos(math.pi * done)) if self.kind == "cosine" else 1 - done
        return self.minimum + share * (self.peak - self.minimum)

    def on_step_begin(self, step):
        rate = unwrapped(self.model.optimizer)._learning_rate
        backend.live_assign(self.model, rate, self.at(step - 1))
