"""Forks: a new run goes on from a checkpoint of another one, its parent, with other settings.

A fork is a run of its own. It has the parent's rows of metrics and samples up to its first step, a
copy of the checkpoint, and `parent.json`.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from kgpt.config import Config
from kgpt.files import atomic_dir, write_json
from kgpt.runs import Parent, Run, resolve_checkpoint
from kgpt.training.checkpoint import read_trainer_state, verify
from kgpt.training.resume import ResumePoint


def find_fork_point(source: str) -> tuple[Run, ResumePoint]:
    """The parent that `RUN`, `RUN@step`, `RUN@best` or `RUN@latest` names, and its checkpoint.

    The lowest validation loss of the parent is none of the fork's, which lacks that checkpoint.

    Raises:
        RunError: there is no such run, or it has no checkpoint of that step.
        CheckpointError: it is damaged.
    """
    folder = resolve_checkpoint(source)
    run = Run(folder.parent.parent)
    verify(folder)
    state = {"step": int(folder.name.rpartition("-")[2])} | read_trainer_state(folder)
    state["best_val_loss"] = None
    parent = Parent(run=run.name, path=str(run.path.resolve()), step=state["step"])
    note = f"forked from {run.name} at step {parent.step} (saved on {state['backend']})"
    return run, ResumePoint(folder, state, notes=(note,), parent=parent)


def begin(run: Run, point: ResumePoint, config: Config) -> None:
    """Write what a run has before its first step, and delete what a former attempt has left.

    The checkpoint of a fork comes last, whole or not at all: without one it cannot be resumed.
    """
    if not run.is_writer:
        return
    if point.parent is None:
        if point.checkpoint is None:
            for name in ("parent.json", "environment.jsonl"):
                (run.path / name).unlink(missing_ok=True)
        run.truncate_after(point.step)
        run.write_config(config.to_yaml())
        return
    write_json(run.path / "parent.json", point.parent.model_dump())
    run.write_config(config.to_yaml())
    (run.path / "environment.jsonl").unlink(missing_ok=True)
    for name in ("metrics.jsonl", "samples.jsonl", "completions.jsonl"):
        (run.path / name).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(Path(point.parent.path) / name, run.path / name)
    run.truncate_after(point.step)
    assert point.checkpoint is not None
    with atomic_dir(run.checkpoint_path(point.step)) as folder:
        shutil.copytree(point.checkpoint, folder, dirs_exist_ok=True)
    run.set_pointer("latest", point.step)
