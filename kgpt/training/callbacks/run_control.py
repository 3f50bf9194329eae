"""Commands for a running trainer: pause, resume, stop, checkpoint, sample; and Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

from kgpt.runs import Command, Run
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.sample_writer import SampleWriter
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import Logs, StepCallback

POLL_S = 0.1


class RunControl(StepCallback):
    """Executes the commands in a run's control/ between steps, and handles SIGINT and SIGTERM.

    The first signal saves and stops after the current step; a second one raises
    `KeyboardInterrupt` at once.

    Attributes:
        stop_at: save and stop after this step; None for the last one.
        stopped: why training ended early: "command", "step", a signal's name, or None if it did
            not.
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
        self.stop_at: int | None = None
        self.stopped: str | None = None
        self._signal: str | None = None  # that this process has received
        self._old_handlers: dict[int, Any] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old_handlers[number] = signal.signal(number, self._on_signal)

    def restore_signals(self) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)

    def on_step_end(self, step: int, logs: Logs) -> None:
        self._poll_commands(step)
        if step == self.stop_at and not self.model.stop_training:
            self.stopped = self.stopped or "step"
        if self.stopped:
            self.checkpoints.save(step)
            self.model.stop_training = True

    def _poll_commands(self, step: int) -> None:
        for command, arguments in self._poll():
            if command == "pause":
                self._pause(step)
            else:
                self._execute(command, arguments, step)

    def _poll(self) -> list[tuple[Command, dict[str, Any]]]:
        commands, stopped_by = self.run.poll(self._signal)
        self.stopped = self.stopped or stopped_by
        return commands

    def _execute(self, command: Command, arguments: dict[str, Any], step: int) -> None:
        if command == "stop":
            self.stopped = self.stopped or "command"
        elif command == "checkpoint":
            self.checkpoints.save(step)
        elif command == "sample" and self.samples is not None:
            prompt = arguments.get("prompt")
            prompts = [prompt] if isinstance(prompt, str) else self.samples.prompts
            self.samples.sample(step, prompts)

    def _pause(self, step: int) -> None:
        """Wait for `resume` or `stop`; other commands are executed meanwhile."""
        self.checkpoints.save(step)  # a paused machine is often switched off
        self.checkpoints.wait()
        with self.status.state("paused"):
            while not self.stopped:
                for command, arguments in self._poll():
                    if command == "resume":
                        return
                    self._execute(command, arguments, step)
                time.sleep(POLL_S)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            raise KeyboardInterrupt
        self._signal = signal.Signals(number).name
