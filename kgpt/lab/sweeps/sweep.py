"""A sweep: many runs of one configuration, each with other values of some options.

A sweep lives in the folder of all runs, in a folder of its name, and its trials are runs beside it:

    sweep/sweep.yaml     what it was started with
    sweep/study.db       the trials and their values: an Optuna study in SQLite
    sweep/trials/        configuration and output of each trial
    sweep/best.yaml      the configuration of the best trial
    sweep-0000/ ...      the trials

What is to be done next is a function of the record and of the run directories. So a sweep that is
killed at any moment goes on where it was: a trial that was trained is read from its run, one that
was not goes on from its checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType

from filelock import FileLock, Timeout

from kgpt.config import Config
from kgpt.errors import RunError, UsageError
from kgpt.files import write_text
from kgpt.formatting import number as formatted
from kgpt.lab.sweeps.halving import next_segments, ranked
from kgpt.lab.sweeps.outcome import Outcome, mend_status, read_outcome
from kgpt.lab.sweeps.process import TrialProcess
from kgpt.lab.sweeps.settings import SweepSettings
from kgpt.lab.sweeps.space import Params, Space
from kgpt.lab.sweeps.study import SweepStudy
from kgpt.lab.sweeps.suggest import suggest
from kgpt.lab.sweeps.trial import Trial
from kgpt.runs import Run, SweepTrial, new_run, write_trial

POLL_S = 0.1
MAX_ATTEMPTS = 3  # to get beyond a step, where the process of a trial is killed
Report = Callable[[str], None]


class Sweep:
    """The trials of a sweep, and the processes that train them.

    Args:
        name: of the sweep, in the folder of all runs.
        settings: what it is started or resumed with.
        report: told in a sentence whatever happens to a trial.

    Raises:
        UsageError: the settings are not valid, or not those of the sweep of this name.
        RunError: the name is that of a run, or the sweep is at work.
    """

    def __init__(self, name: str, settings: SweepSettings, report: Report = lambda _: None):
        directory = new_run(name)
        if directory.exists:
            raise RunError(f"{name} is a run; give the sweep another --name.")
        settings.check()
        self.name, self.folder, self.report = name, directory.path, report
        self.workers = settings.options.workers
        if (self.folder / "sweep.yaml").is_file():
            settings = SweepSettings.read(self.folder).resumed_as(settings, name)
        self.settings, self.options = settings, settings.options
        self.space = Space.parse(settings.space)
        (self.folder / "trials").mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock")
        self._running: dict[int, TrialProcess] = {}
        self._attempts: dict[int, tuple[int, int]] = {}  # by trial: the step, and how many
        self._signals = 0

    def run(self) -> bool:
        """Train all trials that are left; returns whether it came to the end.

        A first SIGINT or SIGTERM saves and stops the trials, a second kills them.
        """
        with self._locked(), self._signals_handled():
            self.settings.write(self.folder)
            self.study = SweepStudy(self.folder, self.name, self.options.direction, self.space)
            self._start()
            while self._running:
                if not self._settle():
                    time.sleep(POLL_S)
                elif not self._signals:
                    self._start()
            self._write_best()
        return not self._signals

    def trial_run(self, number: int) -> Run:
        """The run of a trial."""
        return new_run(f"{self.name}-{number:04d}")

    # -- what is next --------------------------------------------------------------------------

    def _start(self) -> None:
        """Begin or go on with trials, as far as workers are free.

        A trial that was trained before or fails at once has an outcome, and others follow from it.
        """
        before: list[Trial] | None = None
        while not self._signals and before != (before := self.study.trials()):
            self._start_what_is_known()

    def _start_what_is_known(self) -> None:
        settings, options = self.settings, self.options
        segments, pruned = next_segments(
            self.study.trials(), settings.rungs, settings.trials, options.reduction_factor,
            options.direction == "minimize",
        )  # fmt: skip
        for trial in pruned:
            self.study.end(trial.number, "pruned")
            self.report(f"trial {trial.number} is pruned at step {trial.step}")
        for trial, stop in segments:
            if trial.number not in self._running and len(self._running) < self.workers:
                self._go_on(trial, stop)
        while len(self._running) < self.workers and self._may_begin():
            self._begin()

    def _may_begin(self) -> bool:
        """Whether there is a next trial, and what its values depend on is known."""
        before, first = self.study.trials(), self._first_rung()
        if len(before) >= self.settings.trials:
            return False
        known = before[: self._num_known(len(before))] if self.options.sampler == "tpe" else []
        return all(
            one.state != "running" or (first is not None and one.step >= first) for one in known
        )

    def _begin(self) -> None:
        """The next trial: its values, and its first steps."""
        before = self.study.trials()
        count = self._num_known(len(before))
        unknown = [replace(one, state="running", values={}) for one in before[count:]]
        seen = before[:count] + unknown
        params = suggest(self.space, self.options, len(before), seen, self._first_rung())
        self.study.add(params)
        self._go_on(self.study.trials()[-1], self.settings.rungs[0])

    def _first_rung(self) -> int | None:
        """Where all trials are compared, if they are before their end."""
        return self.settings.rungs[0] if self.options.pruner == "halving" else None

    def _num_known(self, number: int) -> int:
        """How many trials, from the first on, trial `number` learns from, whichever is faster."""
        return max(0, number - self.options.workers + 1)

    def _go_on(self, trial: Trial, stop: int) -> None:
        """Train a trial up to a step, unless it was, or its configuration is not valid."""
        number, run = trial.number, self.trial_run(trial.number)
        try:
            config = self._config(trial.params)
        except UsageError as error:
            self._fail(number, str(error))
            return
        if stop == self.settings.rungs[-1]:
            stop = config.train.max_steps
        if run.exists and (outcome := read_outcome(run, config, self.options, stop)):
            self._note(number, outcome)
            return
        file = self.folder / "trials" / f"{number:04d}.yaml"
        write_text(file, config.to_yaml())
        about = SweepTrial(
            sweep=self.name, path=str(self.folder.resolve()), number=number, params=trial.params
        )
        write_trial(run, about)
        self.report(f"trial {number}: {_shown(trial.params)}; to step {stop}")
        self._running[number] = TrialProcess(run, file, stop, self._device())
        if self._signals:  # received meanwhile
            self._running[number].send(signal.SIGTERM)

    def _config(self, params: Params) -> Config:
        """The configuration of a trial."""
        values = self.settings.config.model_dump(mode="json")
        for key, value in params.items():
            section, _, name = key.partition(".")
            values[section][name] = value
        return Config.parse(values)

    def _device(self) -> dict[str, str]:
        """One of the GPUs that CUDA_VISIBLE_DEVICES lists, if it does, with the fewest trials."""
        devices = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        if len(devices) < 2:
            return {}
        in_use = [
            process.environment.get("CUDA_VISIBLE_DEVICES") for process in self._running.values()
        ]
        return {"CUDA_VISIBLE_DEVICES": min(devices, key=in_use.count)}

    # -- what has happened ---------------------------------------------------------------------

    def _settle(self) -> bool:
        """Note the outcome of processes that have ended; returns whether any has."""
        ended = {
            number: code
            for number, one in self._running.items()
            if (code := one.poll()) is not None
        }
        for number, code in ended.items():
            process = self._running.pop(number)
            run, stop = process.run, process.stop
            config = self._config(self.study.trials()[number].params)
            if code in (1, 2):
                self._fail(number, process.error())
            elif outcome := read_outcome(run, config, self.options, stop):
                self._note(number, outcome)
            elif code == 0 and (outcome := read_outcome(run, config, self.options, stop, True)):
                self._note(number, outcome, "it was stopped by a command")
            elif not self._signals:
                self._count_attempt(number, run, code)
        return bool(ended)

    def _note(self, number: int, outcome: Outcome, stopped: str | None = None) -> None:
        """A trial is paused, or has ended, before its end if `stopped` says why."""
        mend_status(self.trial_run(number), outcome)
        if outcome.value is None:
            self._fail(number, outcome.error or "")
            return
        self.study.report(number, outcome.step, outcome.value)
        if outcome.is_end:
            self.study.end(number, "pruned" if stopped else "complete", stopped)
        state = stopped or ("it is complete" if outcome.is_end else "it is paused")
        shown = f"{self.options.metric} {formatted(outcome.value)} at step {outcome.step}"
        self.report(f"trial {number}: {shown}; {state}")
        self._write_best()

    def _fail(self, number: int, error: str) -> None:
        self.study.end(number, "failed", error)
        self.report(f"trial {number} failed: {error}")

    def _count_attempt(self, number: int, run: Run, code: int) -> None:
        """A process was killed: the trial goes on, unless it never gets any further."""
        step = max(run.checkpoint_steps(), default=0)
        before = self._attempts.get(number, (step, 0))
        count = before[1] + 1 if before[0] == step else 1
        self._attempts[number] = step, count
        if count >= MAX_ATTEMPTS:
            self._fail(
                number,
                f"its process was ended {count} times after step {step} (exit code {code}), as "
                "happens where memory runs out.",
            )

    def _write_best(self) -> None:
        """best.yaml: what `kgpt train` takes to train the best trial again."""
        complete = [trial for trial in self.study.trials() if trial.state == "complete"]
        if best := ranked(complete, self.options.direction == "minimize"):
            write_text(self.folder / "best.yaml", self._config(best[0].params).to_yaml())

    # -- one sweep at a time, and its end ------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"The sweep {self.name} is already at work.") from None
        try:
            yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _signals_handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        passed_on = signal.SIGTERM if self._signals == 1 else signal.SIGKILL
        for process in self._running.values():
            process.send(passed_on)


def _shown(params: Params) -> str:
    """Values in one line.

    >>> _shown({"train.learning_rate": 0.00123456, "train.optimizer": "adamw"})
    'train.learning_rate 0.001235, train.optimizer adamw'
    """
    return ", ".join(
        f"{key} {f'{value:.4g}' if isinstance(value, float) else value}"
        for key, value in params.items()
    )
