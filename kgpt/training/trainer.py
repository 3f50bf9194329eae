"""A training run, from its configuration to its last checkpoint.

The loop is Keras's: a model is compiled, `model.fit` runs, and callbacks do the rest.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.config import Config, default_loss_chunk
from kgpt.data.dataset import EvaluationDataset, TrainDataset
from kgpt.data.shards import TokenDataset
from kgpt.errors import KgptError, UsageError
from kgpt.model.gpt import GPT
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
from kgpt.training.callbacks.trackers import make_trackers
from kgpt.training.callbacks.validation import Validation
from kgpt.training.hardware import HardwareMonitor
from kgpt.training.losses import NextTokenLoss
from kgpt.training.optimizers import make_optimizer
from kgpt.training.resume import (
    ResumePoint,
    check_config,
    check_data,
    describe,
    find_resume_point,
)
from kgpt.training.schedule import LRSchedule

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
    validation: Validation | None
    metrics: MetricsLogger
    samples: SampleWriter
    early_stopping: EarlyStopping | None
    checkpoints: CheckpointSaver
    control: RunControl

    def as_keras(self, model: GPT) -> CallbackList:
        """What `model.fit` takes."""
        callbacks = (getattr(self, field.name) for field in fields(self))
        present = [callback for callback in callbacks if callback is not None]
        return CallbackList(present, add_history=True, model=model)


def train(
    config: Config, run: Run, resume: bool, console: Console, quiet: bool = False
) -> TrainResult:
    """Train `config` in the run directory `run`, which the caller has locked.

    Args:
        resume: go on from the run's last undamaged checkpoint, as its run.yaml says; what may be
            changed may differ in `config`, and is reported.
        console: where progress is shown.
        quiet: show nothing; log and metrics are written all the same.

    Raises:
        RunError, CheckpointError, DataError: the run cannot be resumed with this configuration or
            this data set; nothing is written then.
        OutOfMemoryError: the model or its batches do not fit.
    """
    data = TokenDataset(config.data.dir or "")
    config, point = _starting_point(config, run, data, resume)
    if point.checkpoint is not None and point.step >= config.train.max_steps:
        return _nothing_to_do(config, run, point, console, quiet)
    platform, device = backend.device()
    before = run.status().before_resume() if resume else {}
    status = StatusWriter(run, backend=backend.name, device=f"{platform} ({device})", **before)
    with ProgressReporter(console, status, run.log, quiet) as reporter:
        try:
            with out_of_memory_as_kgpt(LESS_MEMORY):
                return _train(config, run, data, point, status, reporter)
        except BaseException as error:
            message = str(error) if isinstance(error, KgptError) else repr(error)
            status.end(status.status.state_before_resume or "failed", message)
            reporter.write_log(f"failed: {message}")
            raise


def _starting_point(
    config: Config, run: Run, data: TokenDataset, resume: bool
) -> tuple[Config, ResumePoint]:
    """The whole configuration, and the checkpoint to resume from; nothing is written."""
    if not resume:
        return with_vocabulary(config, data), ResumePoint()
    try:
        point = check_data(run, find_resume_point(run), data)
        config = with_vocabulary(config, data)
        return config, check_config(run, point, config)
    except BaseException:
        run.undo_starting()
        raise


def _nothing_to_do(
    config: Config, run: Run, point: ResumePoint, console: Console, quiet: bool
) -> TrainResult:
    """Say that all steps are made, and leave the run as it is."""
    run.undo_starting()
    if not quiet:
        console.print(
            f"nothing to do: the run {run.name} has {point.step} of {config.train.max_steps} "
            "steps; raise --train.max-steps to train it longer",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip
    return TrainResult(run.status().state, point.step, point.best_val_loss)


def _train(
    config: Config,
    run: Run,
    data: TokenDataset,
    point: ResumePoint,
    status: StatusWriter,
    reporter: ProgressReporter,
) -> TrainResult:
    model = build_model(config)
    point.load(model)
    run.truncate_after(point.step)
    run.write_config(config.to_yaml())
    run.write_data(describe(data))
    for line in (*point.notes, summary(config, data, status), *warnings(config)):
        reporter.print(line)
    status.update(state_before_resume=None)
    with contextlib.ExitStack() as cleanup:
        callbacks = make_callbacks(config, run, data, status, reporter, point, cleanup)
        batches = backend.prefetch(_train_dataset(config, data, point.step))
        model.fit(batches, callbacks=callbacks.as_keras(model), shuffle=False, verbose=0)
    control, checkpoints = callbacks.control, callbacks.checkpoints
    status.end("stopped" if control.stopped else "finished")
    reporter.print(f"{status.status.state} at step {control.step}; the run is in {run.path}")
    return TrainResult(
        status.status.state,
        control.step,
        None if math.isinf(checkpoints.best) else checkpoints.best,
        control.stopped in ("SIGINT", "SIGTERM"),
    )


def _train_dataset(config: Config, data: TokenDataset, start_step: int) -> TrainDataset:
    """The batches from `start_step` to the end of the run."""
    tc = config.train
    return TrainDataset(
        data,
        tc.batch_size,
        sequence_length(config),
        num_batches=(tc.max_steps - start_step) * tc.grad_accumulation,
        seed=tc.seed,
        start_batch=start_step * tc.grad_accumulation,
        token_dropout=config.data.token_dropout,
        token_replacement=config.data.token_replacement,
        assistant_only_loss=config.data.assistant_only_loss,
    )


def with_vocabulary(config: Config, data: TokenDataset) -> Config:
    """`config` with the vocabulary size of the data set, if it gives none of its own.

    Raises `UsageError` if its own is too small for the data set.
    """
    given, size = config.model.vocab_size, data.manifest.vocab_size
    if given is not None and given < size:
        raise UsageError(
            f"model.vocab_size is {given}, but the tokens of {data.folder} go up to {size}; "
            "leave it out to use the data set's."
        )
    model = config.model.model_copy(update={"vocab_size": given or size})
    return config.model_copy(update={"model": model})


def sequence_length(config: Config) -> int:
    """T, tokens in a training sequence; raises `UsageError` if above the model's context."""
    length = config.train.sequence_length or config.model.max_length
    if length > config.model.max_length:
        raise UsageError(
            f"train.sequence_length {length} is above model.max_length {config.model.max_length}."
        )
    return length


def build_model(config: Config) -> GPT:
    """The compiled model of a configuration, with initial weights."""
    train_config = config.train
    backend.set_precision(train_config.precision)
    model = GPT(
        config.model,
        seed=train_config.seed,
        gradient_checkpointing=train_config.gradient_checkpointing,
        dtype=train_config.dtype_policy,
    )
    chunk = train_config.loss_chunk or default_loss_chunk(
        config.model.known_vocab_size, train_config.precision, backend.device_memory()
    )
    loss = NextTokenLoss(train_config.label_smoothing, chunk)
    modes: dict[str, bool | str] = {"auto": "auto", "on": True, "off": False}
    model.compile(
        optimizer=make_optimizer(train_config), loss=loss, jit_compile=modes[train_config.compile]
    )
    model.optimizer.build(model.trainable_variables)
    return model


def make_callbacks(
    config: Config,
    run: Run,
    data: TokenDataset,
    status: StatusWriter,
    reporter: ProgressReporter,
    point: ResumePoint,
    cleanup: contextlib.ExitStack,
) -> RunCallbacks:
    """The callbacks of a run.

    Args:
        cleanup: closes trackers and restores signal handlers after training.
    """
    tc, tokenizer = config.train, data.tokenizer
    best = math.inf if point.best_val_loss is None else point.best_val_loss
    samples = SampleWriter(
        tokenizer, tc.sample_prompts, config.sampling, tc.sample_every, status, reporter.on_sample
    )
    stop_on_nan = StopOnNaN((tc.log_every, tc.eval_every, tc.sample_every), tc.max_steps)
    checkpoints = CheckpointSaver(
        run, tc.checkpoint_every, tc.max_steps, tc.keep_checkpoints, tokenizer, config.sampling,
        status, best, stop_on_nan.check,
    )  # fmt: skip
    cleanup.push(checkpoints.wait_after)
    control = RunControl(run, checkpoints, samples, status)
    cleanup.callback(control.restore_signals)
    trackers = make_trackers(config, run)
    for tracker in trackers:
        cleanup.callback(tracker.close)
    history = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
    return RunCallbacks(
        schedule=LRSchedule(
            tc.learning_rate,
            tc.warmup_steps,
            tc.decay_steps or tc.max_steps,
            tc.min_learning_rate,
            tc.schedule,
        ),
        stop_on_nan=stop_on_nan,
        validation=_validation(config, data, status) if tc.eval_every else None,
        metrics=_metrics_logger(config, data, status, point, [reporter.on_row, *trackers]),
        samples=samples,
        early_stopping=EarlyStopping(tc.early_stopping, history) if tc.early_stopping else None,
        checkpoints=checkpoints,
        control=control,
    )


def _validation(config: Config, data: TokenDataset, status: StatusWriter) -> Validation:
    tc, assistant_only_loss = config.train, config.data.assistant_only_loss
    dataset = EvaluationDataset(
        data,
        tc.batch_size,
        sequence_length(config),
        limit=tc.eval_batches,
        assistant_only_loss=assistant_only_loss,
    )
    bytes_per_token = None if assistant_only_loss else data.bytes_per_token("val")
    return Validation(dataset, tc.eval_every, tc.max_steps, bytes_per_token, status)


def _metrics_logger(
    config: Config,
    data: TokenDataset,
    status: StatusWriter,
    point: ResumePoint,
    listeners: list[Any],
) -> MetricsLogger:
    tc, length = config.train, sequence_length(config)
    return MetricsLogger(
        status,
        tc.log_every,
        tc.max_steps,
        tokens_per_step=tc.batch_size * tc.grad_accumulation * length,
        tokens_per_epoch=data.manifest.splits["train"].tokens,
        flops_per_token=config.model.flops_per_token(length),
        peak_flops=matmul_peak(tc.precision),
        hardware=HardwareMonitor(gpu=backend.device()[0] == "gpu").sample,
        listeners=listeners,
        tokens_seen=(point.state or {}).get("tokens_seen"),
    )


def summary(config: Config, data: TokenDataset, status: StatusWriter) -> str:
    """One sentence: model, data, backend and device."""
    tokens = data.manifest.splits["train"].tokens
    return (
        f"{config.model.num_parameters() / 1e6:.2f}M parameters, vocabulary "
        f"{config.model.vocab_size}, context {config.model.max_length}; {tokens:,} training "
        f"tokens; {backend.name} on {status.status.device}, {config.train.precision}"
    )


def warnings(config: Config) -> list[str]:
    """What is probably not meant, a sentence each."""
    steps, warmup = config.train.max_steps, config.train.warmup_steps
    if warmup < steps:
        return []
    return [
        f"train.warmup_steps is {warmup}, but train.max_steps {steps}: the learning rate ends at "
        f"{steps / (warmup + 1):.0%} of its maximum; lower train.warmup_steps to reach it"
    ]
