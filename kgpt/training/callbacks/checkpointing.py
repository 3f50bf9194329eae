"""Checkpoints every N steps and at each new best; old ones are deleted, never the only good one."""

from __future__ import annotations

import math
import shutil

from kgpt.config import SamplingConfig
from kgpt.files import discard_partial
from kgpt.runs import Run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.checkpoint import save_checkpoint, verify


class CheckpointSaver(StepCallback):
    """Saves into a run's checkpoints/ and moves its `latest` and `best` pointers.

    Args:
        run: the run directory.
        every: steps between checkpoints; 0 saves at the end and at new bests only.
        total_steps: the last step, which is always saved.
        keep: how many of the latest are kept, besides the best.
        best: the lowest validation loss so far, when a run is resumed.
    """

    def __init__(
        self,
        run: Run,
        every: int,
        total_steps: int,
        keep: int = 3,
        tokenizer: Tokenizer | None = None,
        sampling: SamplingConfig | None = None,
        status: StatusWriter | None = None,
        best: float = math.inf,
    ):
        super().__init__()
        self.run, self.every, self.total_steps, self.keep = run, every, total_steps, keep
        self.tokenizer, self.sampling = tokenizer, sampling
        self.status = status or StatusWriter(None)
        self.best = best
        self.saved_step: int | None = None

    def on_step_end(self, step: int, logs: Logs) -> None:
        is_best = logs.get("val_loss", math.inf) < self.best
        if is_best:
            self.best = logs["val_loss"]
        is_due = self.every and step % self.every == 0
        is_last = step == self.total_steps or self.model.stop_training
        if is_due or is_best or is_last:
            self.save(step, is_best)

    def save(self, step: int, is_best: bool = False) -> None:
        """Save the checkpoint of `step`, unless it was just saved."""
        if self.saved_step == step:
            return
        folder = self.run.checkpoint_path(step)
        with self.status.state("saving"):
            best = None if math.isinf(self.best) else self.best
            save_checkpoint(
                folder, self.model, self.tokenizer, self.sampling, step=step, best_val_loss=best
            )
            verify(folder)  # before older ones are deleted
            self.run.set_pointer("latest", step)
            if is_best:
                self.run.set_pointer("best", step)
            self.saved_step = step
            self._delete_old()

    def _delete_old(self) -> None:
        discard_partial(self.run.checkpoints)
        kept = {*self.run.checkpoint_steps()[-self.keep :], self.run.pointer("best")}
        for step in self.run.checkpoint_steps():
            if step not in kept:
                shutil.rmtree(self.run.checkpoint_path(step), ignore_errors=True)
