"""A training run, from its first step, or the checkpoint it is resumed from, to its last.

What is trained, and on what, is a `Task`. The loop is Keras's: the task compiles a model,
`model.fit` runs, and callbacks do the rest.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import keras
from rich.console import Console

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.config import Config, SkippedSteps
from kgpt.config.distribute import describe
from kgpt.errors import KgptError
from kgpt.out_of_memory import out_of_memory_as_kgpt
from kgpt.runs import Run
from kgpt.training.callbacks.callback_list import CallbackList
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.early_stopping import EarlyStopping, StopOnNaN
from kgpt.training.callbacks.metrics_logger import MetricsLogger
from kgpt.training.callbacks.progress import ProgressReporter
from kgpt.training.callbacks.run_control import RunControl
from kgpt.training.callbacks.sample_writer import SampleWriter
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.step_callback import StepCallback
from kgpt.training.callbacks.trackers import make_trackers
from kgpt.training.distribute import check_task, distribute, mesh_of
from kgpt.training.environment import environment
from kgpt.training.fork import begin, find_fork_point
from kgpt.training.hardware import HardwareMonitor
from kgpt.training.resume import ResumePoint, check_config, check_data, find_resume_point
from kgpt.training.schedule import LRSchedule, make_schedule
from kgpt.training.task import Task

MoreCallbacks = Callable[[Task, StatusWriter], Sequence[StepCallback]]

LESS_MEMORY = (
    "halve train.batch_size and double train.grad_accumulation, shorten train.sequence_length, "
    "or set train.gradient_checkpointing or train.precision bfloat16"
)


@dataclass
class TrainResult:
    """How a run ended: its state, the last step, and the lowest validation loss."""

    state: str
    step: int
    best_val_loss: float | None
    interrupted: bool = False


@dataclass
class RunCallbacks:
    """The callbacks of a run, in the order in which Keras calls them."""

    schedule: LRSchedule
    stop_on_nan: StopOnNaN
    validation: StepCallback | None
    of_task: Sequence[StepCallback]
    metrics: MetricsLogger
    samples: SampleWriter
    early_stopping: EarlyStopping | None
    checkpoints: CheckpointSaver
    control: RunControl

    def as_keras(self, model: keras.Model) -> CallbackList:
        """What `model.fit` takes."""
        return CallbackList(list(self), add_history=True, model=model)

    def __iter__(self) -> Iterator[StepCallback]:
        for field in fields(self):
            callback = getattr(self, field.name)
            if callback is not None:
                yield from callback if field.name == "of_task" else (callback,)


def train(
    task: Task,
    run: Run,
    resume: bool,
    console: Console,
    quiet: bool = False,
    fork_of: str | None = None,
    more_callbacks: MoreCallbacks = lambda *_: (),
    stop_at: int | None = None,
) -> TrainResult:
    """Train what `task` says in the run directory `run`, which the caller has locked.

    Args:
        resume: go on from the run's last undamaged checkpoint, as its run.yaml says; what may be
            changed may differ in the task's configuration, and is reported.
        console: where progress is shown.
        quiet: show nothing; log and metrics are written all the same.
        fork_of: for a new run, the checkpoint of another run that it goes on from, such as
            `demo@1000`; what may be changed may differ, and the data set as well.
        more_callbacks: makes callbacks that run after the task's own; see `Task.callbacks`.
        stop_at: save and stop after this step; the schedule is that of all steps.

    Raises:
        RunError, CheckpointError, DataError: the run cannot be resumed or forked with this
            configuration or this data set; nothing is written then.
        UsageError: it cannot be distributed as `distribute` says.
        OutOfMemoryError: the model or its batches do not fit.
    """
    check_task(task)
    distribute(task.config)
    point = _starting_point(task, run, resume, fork_of)
    task.config.distribute.check_model(task.config.model)
    if point.checkpoint is not None and point.step >= min(
        task.config.train.max_steps, stop_at or math.inf
    ):
        return _nothing_to_do(task.config, run, point, console, quiet)
    platform, device = backend.device()
    before = run.status().before_resume() if resume else {}
    status = StatusWriter(run, backend=backend.name, device=f"{platform} ({device})", **before)
    log = run.log if run.is_writer else None
    with ProgressReporter(console, status, log, quiet) as reporter:
        try:
            is_lost = backend.processes.is_lost_process
            with out_of_memory_as_kgpt(LESS_MEMORY), run.lost_process_as_kgpt(is_lost):
                return _train(task, run, point, status, reporter, more_callbacks, stop_at)
        except BaseException as error:
            message = str(error) if isinstance(error, KgptError) else repr(error)
            status.end(status.status.state_before_resume or "failed", message)
            reporter.write_log(f"failed: {message}")
            raise


def _starting_point(task: Task, run: Run, resume: bool, fork_of: str | None) -> ResumePoint:
    """The checkpoint to go on from; completes the task's configuration, and writes nothing."""
    if fork_of is not None:
        parent, point = find_fork_point(fork_of)
        point = check_data(parent, point, task.describe_data())
        task.complete()
        return check_config(parent, point, task.config)
    if not resume:
        task.complete()
        return ResumePoint()
    try:
        point = check_data(run, find_resume_point(run), task.describe_data())
        task.complete()
        return check_config(run, point, task.config)
    except BaseException:
        run.undo_starting()
        raise


def _nothing_to_do(
    config: Config, run: Run, point: ResumePoint, console: Console, quiet: bool
) -> TrainResult:
    """Say that all steps that are asked for are made, and leave the run as it is."""
    run.undo_starting()
    if not quiet:
        limit = "--train.max-steps" if point.step >= config.train.max_steps else "--stop-at"
        console.print(
            f"nothing to do: the run {run.name} has {point.step} of {config.train.max_steps} "
            f"steps; raise {limit} to train it longer",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    return TrainResult(run.status().state, point.step, point.best_val_loss)


def _train(
    task: Task,
    run: Run,
    point: ResumePoint,
    status: StatusWriter,
    reporter: ProgressReporter,
    more_callbacks: MoreCallbacks,
    stop_at: int | None,
) -> TrainResult:
    config, model = task.config, task.build_model()
    point.load(model, task.stored_weights)
    begin(run, point, config)
    if run.is_writer:
        point.delete_damaged()
    run.write_data(task.describe_data())
    run.append("environment", {"step": point.step} | environment())
    for line in (*point.notes, summary(task, status), *warnings(config)):
        reporter.print(line)
    status.update(state_before_resume=None)
    with contextlib.ExitStack() as cleanup:
        callbacks = make_callbacks(task, run, status, reporter, point, cleanup)
        callbacks.control.stop_at = stop_at if stop_at != config.train.max_steps else None
        callbacks.of_task = [*callbacks.of_task, *more_callbacks(task, status)]
        batches = task.batches(model, point.step)
        if task.prefetches:
            batches = backend.prefetch(batches)
        epochs, keras_callbacks = task.epochs(point.step), callbacks.as_keras(model)
        model.fit(batches, epochs=epochs, callbacks=keras_callbacks, shuffle=False, verbose=0)
    control, checkpoints = callbacks.control, callbacks.checkpoints
    status.end("stopped" if control.stopped else "finished")
    reporter.print(f"{status.status.state} at step {control.step}; the run is in {run.path}")
    return TrainResult(
        status.status.state,
        control.step,
        None if math.isinf(checkpoints.best) else checkpoints.best,
        control.stopped in ("SIGINT", "SIGTERM"),
    )


def make_callbacks(
    task: Task,
    run: Run,
    status: StatusWriter,
    reporter: ProgressReporter,
    point: ResumePoint,
    cleanup: contextlib.ExitStack,
) -> RunCallbacks:
    """The callbacks of a run.

    Args:
        cleanup: closes trackers and restores signal handlers after training.
    """
    config, tc, tokenizer = task.config, task.config.train, task.tokenizer
    best = math.inf if point.best_val_loss is None else point.best_val_loss
    samples = SampleWriter(
        tokenizer, tc.sample_prompts, config.sampling, tc.sample_every, status,
        reporter.on_sample, task.encode_prompt,
    )  # fmt: skip
    stop_on_nan = StopOnNaN((tc.log_every, tc.eval_every, tc.sample_every), tc.max_steps)
    checkpoints = CheckpointSaver(
        run, tc.checkpoint_every, tc.max_steps, tc.keep_checkpoints, tokenizer, config.sampling,
        status, best, stop_on_nan.check, task.stored_weights,
    )  # fmt: skip
    cleanup.push(checkpoints.wait_after)
    control = RunControl(run, checkpoints, samples, status)
    cleanup.callback(control.restore_signals)
    trackers = make_trackers(config, run) if run.is_writer else []
    for tracker in trackers:
        cleanup.callback(tracker.close)
    history = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
    return RunCallbacks(
        schedule=make_schedule(tc),
        stop_on_nan=stop_on_nan,
        validation=task.validation(status) if tc.eval_every else None,
        of_task=task.callbacks(status),
        metrics=_metrics_logger(task, status, point, [reporter.on_row, *trackers]),
        samples=samples,
        early_stopping=EarlyStopping(tc.early_stopping, history) if tc.early_stopping else None,
        checkpoints=checkpoints,
        control=control,
    )


def _metrics_logger(
    task: Task, status: StatusWriter, point: ResumePoint, listeners: list[Any]
) -> MetricsLogger:
    tc, platform = task.config.train, backend.device()[0]
    devices = 1 if platform == "cpu" else mesh_of(task.config.distribute).num_devices
    return MetricsLogger(
        status,
        tc.log_every,
        tc.max_steps,
        tokens_per_step=task.tokens_per_step,
        tokens_per_epoch=task.tokens_per_epoch,
        flops_per_token=task.flops_per_token,
        peak_flops=matmul_peak(tc.precision) * devices,
        hardware=HardwareMonitor(gpu=platform == "gpu").sample,
        listeners=listeners,
        tokens_seen=(point.state or {}).get("tokens_seen"),
        metric_names=task.metric_names,
    )


def summary(task: Task, status: StatusWriter) -> str:
    """One sentence: model, data, backend and devices."""
    config = task.config
    where = f"{backend.name} on {status.status.device}, {config.train.precision}"
    if (mesh := mesh_of(config.distribute)).num_devices > 1:
        where += f"; {describe(config.model, mesh)}"
    return f"{task.summary()}; {where}"


def warnings(config: Config) -> list[str]:
    """What is skipped, and what is probably not meant, a sentence each."""
    steps, warmup = config.train.max_steps, config.train.warmup_steps
    found = []
    if skipped := SkippedSteps(config.train.skip_steps):
        first = skipped.ranges[0].start
        found.append(
            f"the data of the steps {config.train.skip_steps} is skipped: {len(skipped)} steps of "
            f"data, from step {first} on"
        )
    if warmup < steps:
        return found
    return [
        *found,
        f"train.warmup_steps is {warmup}, but train.max_steps {steps}: the learning rate ends at "
        f"{steps / (warmup + 1):.0%} of its maximum; lower train.warmup_steps to reach it",
    ]
