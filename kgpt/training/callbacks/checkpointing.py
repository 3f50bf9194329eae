"""Checkpoints every N steps and at each new best; old ones are deleted, never the only good one.

The state is copied to host memory between two steps and written by a thread while training goes on.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.files import discard_partial
from kgpt.runs import Run
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.background import BackgroundTask
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback
from kgpt.training.checkpoint import TrainingState, copy_state, verify, write_checkpoint
from kgpt.training.stored_weights import StoredWeights


class CheckpointSaver(StepCallback):
    """Saves into a run's checkpoints/ and moves its `latest` and `best` pointers.

    At most one checkpoint is being written: the next waits for it, and so do a pause and the end of
    training. If one cannot be written, the next step raises why.

    Args:
        run: the run directory.
        every: steps between checkpoints; 0 saves at the end and at new bests only.
        total_steps: the last step, which is always saved.
        keep: how many of the latest are kept, besides the best.
        best: the lowest validation loss so far, when a run is resumed.
        check: called before each; it raises if the weights are not to be saved.
        stored: which weights are saved.
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
        check: Callable[[], None] = lambda: None,
        stored: StoredWeights | None = None,
    ):
        super().__init__()
        self.run, self.every, self.total_steps, self.keep = run, every, total_steps, keep
        self.tokenizer, self.sampling = tokenizer, sampling
        self.status = status or StatusWriter(None)
        self.best, self.check = best, check
        self.stored = stored or StoredWeights()
        self.saved_step: int | None = None
        self._task = BackgroundTask()

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._task.raise_if_failed()
        is_best = logs.get("val_loss", math.inf) < self.best
        if is_best:
            self.best = logs["val_loss"]
        is_due = self.every and step % self.every == 0
        is_last = step == self.total_steps or self.model.stop_training
        if is_due or is_best or is_last:
            self.save(step, is_best)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if self.run.is_writer:  # before any process writes its part of another
            discard_partial(self.run.checkpoints)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self.wait()

    def save(self, step: int, is_best: bool = False) -> None:
        """Begin to save the checkpoint of `step`, unless it was the last to be saved."""
        if self.saved_step == step:
            return
        self.check()
        best = None if math.isinf(self.best) else self.best
        with self.status.state("saving"):
            self._task.wait()
            tokens_seen = self.status.status.tokens_seen
            state = copy_state(
                self.model,
                self.stored,
                step=step,
                best_val_loss=best,
                tokens_seen=tokens_seen or None,
            )
        self._task.start(lambda: self._write(step, state, is_best))
        self.saved_step = step

    def wait(self) -> None:
        """Wait until the last checkpoint is written; raises if it could not be."""
        with self.status.state("saving"):
            self._task.wait()

    def wait_after(self, error: type[BaseException] | None, *_: object) -> None:
        """Wait at the end of a `with` block; not after a second Ctrl-C, which ends at once."""
        if error is not None and not issubclass(error, KeyboardInterrupt):
            with contextlib.suppress(KgptError):  # the first error is the one to report
                self.wait()

    def _write(self, step: int, state: TrainingState, is_best: bool) -> None:
        folder = self.run.checkpoint_path(step)
        write_checkpoint(folder, state, self.tokenizer, self.sampling)  # each process its part
        if not self.run.is_writer:
            return
        verify(folder)  # before older ones are deleted
        self.run.set_pointer("latest", step)
        if is_best:
            self.run.set_pointer("best", step)
        if state.part.count == 1:  # of a group, others may write their parts of the next by now
            discard_partial(self.run.checkpoints)
        self._delete_old()

    def _delete_old(self) -> None:
        kept = {*self.run.checkpoint_steps()[-self.keep :], self.run.pointer("best")}
        for step in self.run.checkpoint_steps():
            if step not in kept:
                shutil.rmtree(self.run.checkpoint_path(step), ignore_errors=True)
