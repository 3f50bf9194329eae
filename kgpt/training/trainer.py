"""A training run, from its configuration to its last checkpoint.

Nothing here drives the loop: a model is compiled, `model.fit` runs, and callbacks do the rest.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.config import Config
from kgpt.data.dataset import EvaluationDataset, TrainDataset
from kgpt.data.shards import TokenDataset
from kgpt.errors import CheckpointError, KgptError, RunError, UsageError
from kgpt.model.gpt import GPT
from kgpt.runs import Run
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.early_stopping import EarlyStopping, StopOnNaN
from kgpt.training.callbacks.metrics_logger import MetricsLogger
from kgpt.training.callbacks.progress import ProgressReporter
from kgpt.training.callbacks.run_control import RunControl
from kgpt.training.callbacks.sampling import SampleWriter
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.trackers import make_trackers
from kgpt.training.callbacks.validation import Validation
from kgpt.training.checkpoint import load_checkpoint, verify
from kgpt.training.losses import NextTokenLoss
from kgpt.training.optimizers import make_optimizer
from kgpt.training.schedule import LRSchedule


@dataclass
class TrainResult:
    """How a run ended: its state, the step, and the lowest validation loss."""

    state: str
    step: int
    best_val_loss: float | None
    interrupted: bool = False


def train(config: Config, run: Run, resume: bool, console: Console, quiet=False) -> TrainResult:
    """Train `config` in the run directory `run`, which must be locked by the caller.

    Args:
        resume: go on from the run's last good checkpoint.
        console: where progress is shown.
        quiet: show nothing; the log and the metrics are written all the same.
    """
    data = TokenDataset(config.data.dir or "")
    config = with_vocabulary(config, data)
    platform, device = backend.device()
    status = StatusWriter(run, backend=backend.name, device=f"{platform} ({device})")
    with ProgressReporter(console, status, run.log, quiet) as screen:
        try:
            return _train(config, run, data, resume, status, screen)
        except BaseException as error:
            message = str(error) if isinstance(error, KgptError) else repr(error)
            status.end("failed", message)
            screen.write_log(f"failed: {message}")
            raise


def _train(config, run, data, resume, status, screen) -> TrainResult:
    tc = config.train
    model = build_model(config)
    facts = restore(run, model, screen) if resume else {}
    done = facts.get("step", 0)
    run.forget_after(done)
    run.write_config(config.to_yaml())
    screen.say(summary(config, data, status))
    with contextlib.ExitStack() as cleanup:
        callbacks = make_callbacks(config, run, data, status, screen, facts, cleanup)
        control, checkpoints = callbacks[-1], callbacks[-2]
        if done < tc.max_steps:
            batches = TrainDataset(
                data,
                tc.batch_size,
                sequence_length(config),
                num_batches=(tc.max_steps - done) * tc.grad_accumulation,
                seed=tc.seed,
                start_batch=done * tc.grad_accumulation,
                token_dropout=config.data.token_dropout,
                token_replacement=config.data.token_replacement,
                assistant_only_loss=config.data.assistant_only_loss,
            )
            model.fit(batches, callbacks=callbacks, shuffle=False, verbose=0)
    step = control.step or done
    state = "stopped" if control.stopped else "finished"
    status.end(state)
    screen.say(f"{state} at step {step}; the run is in {run.path}")
    best = None if math.isinf(checkpoints.best) else checkpoints.best
    return TrainResult(state, step, best, control.stopped in ("SIGINT", "SIGTERM"))


def with_vocabulary(config: Config, data: TokenDataset) -> Config:
    """`config` with the vocabulary size of the data set, which it must not contradict."""
    given, size = config.model.vocab_size, data.manifest.vocab_size
    if given is not None and given < size:
        raise UsageError(
            f"model.vocab_size is {given}, but the tokens of {data.folder} go up to {size}; "
            "leave it out to use the data set's."
        )
    model = config.model.model_copy(update={"vocab_size": given or size})
    return config.model_copy(update={"model": model})


def sequence_length(config: Config) -> int:
    length = config.train.sequence_length or config.model.max_length
    if length > config.model.max_length:
        raise UsageError(
            f"train.sequence_length {length} is above model.max_length {config.model.max_length}."
        )
    return length


def build_model(config: Config) -> GPT:
    """The compiled model of a configuration, with fresh weights."""
    train_config = config.train
    model = GPT(
        config.model,
        seed=train_config.seed,
        gradient_checkpointing=train_config.gradient_checkpointing,
        dtype=train_config.dtype_policy,
    )
    loss = NextTokenLoss(train_config.label_smoothing, train_config.loss_chunk)
    model.compile(optimizer=make_optimizer(train_config), loss=loss)
    model.optimizer.build(model.trainable_variables)
    return model


def restore(run: Run, model: GPT, screen: ProgressReporter) -> dict[str, Any]:
    """Load the last good checkpoint of a run into `model`; its facts, {} if there is none."""
    damaged = []
    for step in reversed(run.checkpoint_steps()):
        folder = run.checkpoint_path(step)
        try:
            verify(folder)
        except CheckpointError as error:
            screen.say(f"{error} Trying the one before.")
            damaged.append(folder)
            continue
        facts = load_checkpoint(folder, model)
        for bad in damaged:  # they must not count when old checkpoints are retired
            shutil.rmtree(bad, ignore_errors=True)
        screen.say(f"resuming at step {step} (saved on {facts['backend']})")
        return facts
    if run.checkpoint_steps():
        raise RunError(
            f"No checkpoint of the run {run.name} is undamaged; start again without --resume."
        )
    screen.say("no checkpoint yet: starting from the beginning")
    return {}


def make_callbacks(config, run, data, status, screen, facts, cleanup) -> list:
    """The callbacks of a run in order; the last two: `CheckpointSaver`, `RunControl`."""
    tc, tokenizer, length = config.train, data.tokenizer, sequence_length(config)
    trackers = make_trackers(config, run)
    for tracker in trackers:
        cleanup.callback(tracker.close)
    rate = LRSchedule(
        tc.learning_rate,
        tc.warmup_steps,
        tc.decay_steps or tc.max_steps,
        tc.min_learning_rate,
        tc.schedule,
    )
    recorder = MetricsLogger(
        status,
        tc.log_every,
        tc.max_steps,
        tokens_per_step=tc.batch_size * tc.grad_accumulation * length,
        tokens_per_epoch=data.manifest.splits["train"].tokens,
        flops_per_token=config.model.flops_per_token(length),
        peak_flops=matmul_peak(tc.precision),
        listeners=[screen.on_row, *trackers],
    )
    samples = SampleWriter(
        tokenizer, tc.sample_prompts, config.sampling, tc.sample_every, status, screen.on_sample
    )
    best = facts.get("best_val_loss")
    best = math.inf if best is None else best
    checkpoints = CheckpointSaver(
        run, tc.checkpoint_every, tc.max_steps, tc.keep_checkpoints, tokenizer, config.sampling,
        status, best,
    )  # fmt: skip
    control = RunControl(run, checkpoints, samples, status)
    cleanup.callback(control.restore_signals)
    callbacks = [rate, StopOnNaN()]
    if tc.eval_every:
        assistant_only_loss = config.data.assistant_only_loss
        batches = EvaluationDataset(
            data,
            tc.batch_size,
            length,
            limit=tc.eval_batches,
            assistant_only_loss=assistant_only_loss,
        )
        per_token = None if assistant_only_loss else data.bytes_per_token("val")
        callbacks.append(Validation(batches, tc.eval_every, tc.max_steps, per_token, status))
    callbacks += [recorder, samples]
    if tc.early_stopping:
        history = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
        callbacks.append(EarlyStopping(tc.early_stopping, history))
    return [*callbacks, checkpoints, control]


def summary(config: Config, data: TokenDataset, status: StatusWriter) -> str:
    """One paragraph on what is about to be trained, where."""
    tokens = data.manifest.splits["train"].tokens
    return (
        f"{config.model.num_parameters() / 1e6:.2f}M parameters, vocabulary "
        f"{config.model.vocab_size}, context {config.model.max_length}; {tokens:,} training "
        f"tokens; {backend.name} on {status.status.device}, {config.train.precision}"
    )
