"""Training of a run, replayed exactly to the beginning of a step, from the checkpoint before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from kgpt.config import Config
from kgpt.errors import RunError, UsageError
from kgpt.runs import Run, parent_of
from kgpt.training.callbacks.metrics_logger import read_step
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.checkpoint import copy_state, load_checkpoint, verify, write_checkpoint
from kgpt.training.pretraining import TokenDatasetTask
from kgpt.training.schedule import make_schedule
from kgpt.training.task import make_task

Batch = tuple[Any, ...]


class Batches(keras.utils.PyDataset):
    """Some batches, already made."""

    def __init__(self, batches: Sequence[Batch]):
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


class LastStep(StepCallback):
    """Loss, learning rate and gradient norm of the last step, as a run logs them."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}
        self._losses: list[Any] = []

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._losses.append((logs or {})["loss"])
        super().on_train_batch_end(batch, logs)

    def on_step_end(self, step: int, logs: Logs) -> None:
        losses, self._losses = self._losses, []
        self.values = read_step(self.model, losses)


@dataclass
class Replay:
    """A model in training, before one of its steps.

    Attributes:
        checkpoint: the step that it was replayed from; 0 for the beginning.
    """

    task: TokenDatasetTask
    model: keras.Model
    step: int
    checkpoint: int

    def batches(self) -> list[Batch]:
        """Those of the step: `train.grad_accumulation`."""
        dataset = self.task.batches(self.model, self.step - 1)
        return [dataset[i] for i in range(self.task.config.train.grad_accumulation)]

    def train(self, batches: keras.utils.PyDataset) -> dict[str, float]:
        """Train on batches with the run's learning rates; returns what a run logs of the last."""
        schedule, last = make_schedule(self.task.config.train), LastStep()
        self.model.fit(batches, callbacks=[schedule, last], shuffle=False, verbose=0)
        return last.values

    def save(self, folder: Path) -> None:
        """Write the state of model and optimizer as a checkpoint."""
        state = copy_state(self.model, self.task.stored_weights, step=self.step - 1)
        write_checkpoint(folder, state)

    def load(self, folder: Path) -> None:
        """Go back to a state that was written."""
        load_checkpoint(folder, self.model, self.task.stored_weights)


def replay(run: Run, step: int) -> Replay:
    """A run's model, trained as the run was up to the beginning of `step`.

    Exact if its options have not changed between that checkpoint and the step, on the same backend
    and machine.

    Raises:
        UsageError: the run is of a kind whose batches depend on the model, or has no such step.
        RunError: there is no checkpoint before the step to begin from.
    """
    config = Config.load(str(run.path / "run.yaml"))
    if not 1 <= step <= config.train.max_steps:
        raise UsageError(f"The run {run.name} has steps from 1 to {config.train.max_steps}.")
    task = make_task(config)
    if not isinstance(task, TokenDatasetTask):
        raise UsageError(
            f"The batches of finetune.objective {config.finetune.objective} are no sequences of a "
            "data set, so its steps cannot be inspected."
        )
    task.complete()
    begin = max((s for s in run.checkpoint_steps() if s < step), default=0)
    if not begin and parent_of(run):
        raise RunError(f"The fork {run.name} has no checkpoint before step {step}.")
    model = task.build_model()
    if begin:
        verify(run.checkpoint_path(begin))
        load_checkpoint(run.checkpoint_path(begin), model, task.stored_weights)
    replayed = Replay(task, model, step, begin)
    missing = (step - 1 - begin) * config.train.grad_accumulation
    if missing:
        replayed.train(_First(task.batches(model, begin), missing))
    return replayed


class _First(keras.utils.PyDataset):
    """The first batches of a data set."""

    def __init__(self, dataset: keras.utils.PyDataset, count: int):
        super().__init__()
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        batch: Batch = self.dataset[index]
        return batch
