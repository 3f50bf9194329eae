"""Learning-rate range test (Smith, 2017): which rate to train with, from one short training.

The rate grows exponentially, a step at a time, and the loss says where it learns and where it
diverges. Nothing is written, and the model is as it was before.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kgpt import backend
from kgpt.config import Config
from kgpt.errors import KgptError, UsageError
from kgpt.lab.compare import smooth
from kgpt.training.callbacks.metrics_logger import read_step
from kgpt.training.callbacks.step_callback import Logs
from kgpt.training.distribute import distribute
from kgpt.training.schedule import LRSchedule
from kgpt.training.task import make_task

LOW, HIGH, STEPS, SMOOTHING = 1e-5, 1.0, 100, 0.9
DIVERGENCE = 4.0  # times the lowest loss, smoothed: as in fastai and Lightning
MIN_STEPS = 10
SKIP_BEGIN, SKIP_END = 10, 5  # steps without a suggestion of `steepest`, as in Lightning


@dataclass(frozen=True)
class RangeTest:
    """The losses of a training whose learning rate grows exponentially.

    Attributes:
        rates: of each step.
        losses: of each step, before its update.
        smoothed: the losses, smoothed.
        steepest: the rate at which the smoothed loss falls fastest.
        valley: the rate in the middle of the longest descent; see `valley_index`.
        diverged: whether it ended because the loss had become too high.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    steepest: float
    valley: float
    diverged: bool

    @property
    def suggestion(self) -> float:
        """The rate to train with: `valley`."""
        return self.valley


def find_learning_rate(
    config: Config,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    smoothing: float = SMOOTHING,
) -> RangeTest:
    """Do a range test on the model, the optimizer and the data of a configuration.

    Raises:
        UsageError: an argument is out of range, or the objective's batches depend on the model.
        KgptError: the loss is not finite from the beginning.
    """
    check_range(low, high, steps, smoothing)
    train = config.train.model_copy(update={"max_steps": steps, "eval_every": 0})
    task = make_task(config.model_copy(update={"train": train}))
    if not task.prefetches:
        raise UsageError(
            f"With finetune.objective {config.finetune.objective} the loss does not say whether "
            "the model learns, so no learning rate can be found by it."
        )
    distribute(task.config)
    task.complete()
    model = task.build_model()
    return range_test(model, task.batches(model, 0), low, high, steps, smoothing)


def range_test(
    model: keras.Model,
    batches: keras.utils.PyDataset,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    smoothing: float = SMOOTHING,
) -> RangeTest:
    """Train a compiled model with rates from `low` to `high`; then it is as it was.

    Args:
        model: its optimizer is built.
        batches: enough for `steps`.
        smoothing: weight of the average so far against the next loss; see `kgpt.lab.compare`.
    """
    check_range(low, high, steps, smoothing)
    rates = ExponentialRates(low, high, steps, smoothing)
    with restored(model):
        model.fit(batches, callbacks=[rates], shuffle=False, verbose=0)
    return summarize(rates.rates, rates.losses, smoothing, rates.diverged)


def check_range(low: float, high: float, steps: int, smoothing: float) -> None:
    """Raise `UsageError` for what cannot be tested."""
    if not 0 < low <= high:
        raise UsageError(f"Rates must be above 0 and grow, not from {low:g} to {high:g}.")
    if steps < MIN_STEPS:
        raise UsageError(f"A range test has at least {MIN_STEPS} steps, not {steps}.")
    if not 0 <= smoothing < 1:
        raise UsageError(f"The smoothing must be at least 0 and below 1, not {smoothing}.")


class ExponentialRates(LRSchedule):
    """The rate low * (high / low) ** (step / (steps - 1)), until the loss diverges.

    Attributes:
        rates, losses: of the steps made; the last loss may not be finite.
    """

    def __init__(self, low: float, high: float, steps: int, smoothing: float):
        super().__init__(high, 0, steps, low)
        self.steps, self.smoothing = steps, smoothing
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.diverged = False
        self._batch_losses: list[Any] = []
        self._first_step = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self._first_step = self.step

    def at(self, step: int) -> float:
        done = (step - self._first_step) / (self.steps - 1)
        return float(self.min_lr * (self.max_lr / self.min_lr) ** done)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batch_losses.append((logs or {})["loss"])
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step: int, logs: Logs) -> None:
        losses, self._batch_losses = self._batch_losses, []
        self.losses.append(read_step(self.model, losses)["loss"])
        self.rates.append(self.at(step - 1))
        smoothed = smooth(self.losses, self.smoothing)
        self.diverged = not smoothed[-1] <= DIVERGENCE * min(smoothed)  # NaN is not
        self.model.stop_training = self.diverged or len(self.losses) == self.steps


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Afterwards the weights and the optimizer are as they were; they are kept on the host."""
    variables = [*model.variables, *model.optimizer.variables]
    values = [np.array(value) for value in backend.to_host(variables)]  # not views of what changes
    skipped = getattr(model, "skipped_steps", None)
    try:
        yield
    finally:
        for variable, value in zip(variables, values, strict=True):
            backend.distribution.assign_shards(variable, value)
        if skipped is not None:
            model.skipped_steps = skipped


def summarize(
    rates: Sequence[float], losses: Sequence[float], smoothing: float, diverged: bool
) -> RangeTest:
    """The suggestions of a range test; raises `KgptError` if it diverged at once."""
    count = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
    if count < MIN_STEPS:
        raise KgptError(
            f"The loss diverged at a rate of {rates[max(0, count - 1)]:.1e}, after {count} steps; "
            "begin with a lower --low."
        )
    smoothed = smooth(losses[:count], smoothing)
    return RangeTest(
        list(rates[:count]),
        list(losses[:count]),
        smoothed,
        rates[steepest_index(smoothed)],
        rates[valley_index(smoothed)],
        diverged,
    )


def steepest_index(losses: Sequence[float]) -> int:
    """Where the loss falls fastest, per step and so per factor of the rate; not at the ends.

    This is the suggestion of Lightning's `lr_find`.
    """
    end = len(losses) - SKIP_END
    begin = SKIP_BEGIN if end - 1 > SKIP_BEGIN else 0
    return begin + int(np.gradient(np.asarray(losses))[begin:end].argmin())


def valley_index(losses: Sequence[float]) -> int:
    """The middle of the longest descent, as in fastai's `valley` suggestion.

    The descent is the longest decreasing subsequence of losses.

    >>> valley_index([5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 2.0, 8.0])
    1
    """
    lengths = [1] * len(losses)
    for i, loss in enumerate(losses):
        lengths[i] += max((lengths[j] for j in range(i) if losses[j] > loss), default=0)
    last = max(range(len(losses)), key=lengths.__getitem__)
    first = max(0, last - lengths[last])
    third = (last - first) / 3
    return first + int(third) + int(third / 2)
