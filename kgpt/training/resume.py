"""Resuming a run: what it is compared with before anything is written.

A run goes on as its run.yaml says, on the data set that its data.json describes. What a checkpoint
depends on cannot change (see `kgpt.config.resume`); other changes are reported.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from kgpt.config import Changes, Config, SkippedSteps, config_changes, is_fixed
from kgpt.errors import CheckpointError, DataError, RunError
from kgpt.runs import Parent, Run, RunData, parent_of
from kgpt.text.tokenizer import Tokenizer
from kgpt.training.checkpoint import check_fits, load_checkpoint, read_trainer_state, verify
from kgpt.training.stored_weights import StoredWeights


@dataclass(frozen=True)
class ResumePoint:
    """Where a run starts or goes on.

    Attributes:
        checkpoint: its folder; None starts from the beginning.
        state: the contents of its trainer_state.json.
        damaged: later checkpoints, which cannot be used.
        notes: lines to print.
        parent: what the checkpoint is of, if a fork begins there.
    """

    checkpoint: Path | None = None
    state: dict[str, Any] | None = None
    damaged: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    parent: Parent | None = None

    @property
    def step(self) -> int:
        """Updates that have been made."""
        return int((self.state or {}).get("step", 0))

    @property
    def best_val_loss(self) -> float | None:
        """The lowest validation loss so far, if there was a validation."""
        return (self.state or {}).get("best_val_loss")

    def load(self, model: keras.Model, stored: StoredWeights) -> None:
        """Load the checkpoint, if there is one."""
        if self.checkpoint is not None:
            load_checkpoint(self.checkpoint, model, stored)

    def delete_damaged(self) -> None:
        """Delete the damaged checkpoints, which would count among the latest that are kept."""
        for folder in self.damaged if self.checkpoint is not None else ():
            shutil.rmtree(folder, ignore_errors=True)


def find_resume_point(run: Run) -> ResumePoint:
    """The last undamaged checkpoint of a run.

    Raises `RunError` if all of them are damaged, or it is a fork without any.
    """
    found: list[ResumePoint] = []

    def find() -> int:
        found.append(_find_undamaged(run))
        return found[0].step if found[0].checkpoint is not None else -1

    step = run.shared(find)
    if found:
        return found[0]
    if step < 0:
        return ResumePoint()
    folder = run.checkpoint_path(step)
    return ResumePoint(folder, {"step": step} | read_trainer_state(folder))


def _find_undamaged(run: Run) -> ResumePoint:
    damaged: list[Path] = []
    notes: list[str] = []
    for step in reversed(run.checkpoint_steps()):
        folder = run.checkpoint_path(step)
        try:
            verify(folder)
        except CheckpointError as error:
            notes.append(f"{error} Trying the one before.")
            damaged.append(folder)
            continue
        state = read_trainer_state(folder)
        notes.append(f"resuming at step {step} (saved on {state['backend']})")
        return ResumePoint(folder, {"step": step} | state, tuple(damaged), tuple(notes))
    if damaged:
        raise RunError(
            f"No checkpoint of the run {run.name} is undamaged; start again without --resume."
        )
    if parent := parent_of(run):
        raise RunError(
            f"The run {run.name} lacks the checkpoint that it was forked from; start it again with "
            f"`kgpt train --from {parent} --run {run.name}`."
        )
    return ResumePoint(notes=("no checkpoint yet: starting from the beginning",))


def check_config(run: Run, point: ResumePoint, config: Config) -> ResumePoint:
    """`point` with a note for each option that has changed.

    Raises:
        RunError: an option changed that the checkpoint depends on.
        CheckpointError: the checkpoint is of another architecture or optimizer than run.yaml says.
    """
    changes: Changes = {}
    if run.exists:
        changes = config_changes(Config.load(str(run.path / "run.yaml")), config)
    if point.checkpoint is not None:
        for key, (before, after) in changes.items():
            if is_fixed(key, before, after):
                raise RunError(
                    f"The run {run.name} has {key} {before}, which cannot change to {after} when "
                    f"it is {'forked' if point.parent else 'resumed'}; leave it out, or start a "
                    "new run with another --run."
                )
        _check_skipped_steps(run, point, *changes.get("train.skip_steps", (None, None)))
        check_fits(point.checkpoint, config.model, config.train.optimizer)
    lines = (f"{key} {before} → {after}" for key, (before, after) in changes.items())
    return replace(point, notes=(*point.notes, *lines))


def _check_skipped_steps(
    run: Run, point: ResumePoint, before: str | None, after: str | None
) -> None:
    """Raise `RunError` if data is to be skipped that the checkpoint was trained on, or not to be.

    Both are values of `train.skip_steps`.
    """
    old, new = SkippedSteps(before), SkippedSteps(after)
    last = old.data_step(point.step) if point.step else 0
    if old.before(last) != new.before(last):
        raise RunError(
            f"train.skip_steps {before} cannot change to {after} after step {point.step} of the "
            f"run {run.name}, which was trained on data of these steps; fork it with "
            "`kgpt train --from RUN@STEP` from a checkpoint before them."
        )


def check_data(run: Run, point: ResumePoint, now: RunData) -> ResumePoint:
    """`point` with a note if the data set, `now`, could not be compared, or a fork has another.

    Raises:
        DataError: it is not the one that the run to be resumed was trained on, or has another
            tokenizer.
    """
    if point.checkpoint is None:
        return point
    recorded = run.data()
    if recorded is None:
        if (point.checkpoint / "tokenizer.json").is_file():
            saved = Tokenizer.load(point.checkpoint)
            if saved.fingerprint != now.tokenizer_sha256:
                raise _other_tokenizer(run, now, saved.vocab_size)
        note = "the run does not say which data it was trained on, so the data was not compared"
        return replace(point, notes=(*point.notes, note))
    if recorded.tokenizer_sha256 != now.tokenizer_sha256:
        raise _other_tokenizer(run, now, recorded.vocab_size)
    if recorded.sha256 != now.sha256:
        if point.parent is not None:
            change = f"data set {recorded.path} → {now.path}"
            return replace(point, notes=(*point.notes, change))
        raise DataError(
            f"The data set {now.path} ({_counts(now)}) is not the one that the run {run.name} "
            f"was trained on ({_counts(recorded)}); give that one with --data, or start a new run."
        )
    return point


def _other_tokenizer(run: Run, data: RunData, vocab_size: int) -> DataError:
    return DataError(
        f"The tokenizer of {data.path} (vocabulary {data.vocab_size}) is not the one "
        f"that the run {run.name} was trained with (vocabulary {vocab_size}); give the data set of "
        "the run with --data, or start a new run."
    )


def _counts(data: RunData) -> str:
    return f"{data.train_tokens:,} and {data.val_tokens:,} tokens, SHA-256 {data.sha256[:8]}"
