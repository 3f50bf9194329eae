"""Commands from outside: pause, resume, stop, checkpoint, sample; and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

from kgpt.runs import Run
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.sampling import SampleWriter
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import StepCallback

POLL_S = 0.1


class RunControl(StepCallback):
    """Obeys the files in a run's control/ between steps, and SIGINT and SIGTERM.

    The first signal saves and stops after the step under way; a second one breaks off at once.
    `stopped` tells afterwards why training ended before its time: "command", a signal's name,
    or None.
    """

    def __init__(
        self,
        run: Run,
        checkpoints: CheckpointSaver,
        samples: SampleWriter | None,
        status: StatusWriter,
    ):
        super().__init__()
        self.run, self.checkpoints, self.samples, self.status = run, checkpoints, samples, status
        self.stopped: str | None = None
        self._old_handlers: dict[int, Any] = {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self.run.take_commands()  # what was meant for an earlier life of this run
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, self._on_signal)

    def restore_signals(self):
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def on_step_end(self, step, logs):
        self._poll_commands(step)
        if self.stopped:
            self.checkpoints.save(step)
            self.model.stop_training = True

    def _poll_commands(self, step):
        for command, details in self.run.take_commands():
            if command == "pause":
                self._pause(step)
            else:
                self._act(command, details, step)

    def _act(self, command, details, step):
        if command == "stop":
            self.stopped = self.stopped or "command"
        elif command == "checkpoint":
            self.checkpoints.save(step)
        elif command == "sample" and self.samples is not None:
            prompt = details.get("prompt")
            prompts = [prompt] if isinstance(prompt, str) else self.samples.prompts
            self.samples.write(step, prompts)

    def _pause(self, step):
        """Wait for `resume` or `stop`, obeying everything else meanwhile."""
        self.checkpoints.save(step)  # a paused machine is often switched off
        with self.status.state("paused"):
            while not self.stopped:
                for command, details in self.run.take_commands():
                    if command == "resume":
                        return
                    self._act(command, details, step)
                time.sleep(POLL_S)

    def _on_signal(self, number, frame):
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = signal.Signals(number).name
