"""The runs of a family: trained one after the other, and read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

from kgpt.config import Config, ModelConfig
from kgpt.errors import DataError, KgptError, RunError
from kgpt.lab.scaling.family import Member
from kgpt.lab.scaling.law import Observation
from kgpt.runs import Run, new_run

Train = Callable[[Member, Run, bool], None]


def train_members(
    made: Sequence[Member],
    train: Train | None = None,
    progress: Callable[[Member], None] = lambda _: None,
) -> list[Run]:
    """Train what is not trained yet, each run in a process of its own.

    A run that was interrupted goes on from its checkpoint, so this can be called again.

    Args:
        train: trains one run in its directory; the last argument is whether it goes on.
        progress: called before each run that is trained.

    Raises:
        RunError: a run of a member's name has other options.
        KgptError: a run failed.
    """
    runs = [new_run(member.name) for member in made]
    for member, run in zip(made, runs, strict=True):
        check_options(member, run)
    for member, run in zip(made, runs, strict=True):
        if run.status().state == "finished":
            continue
        progress(member)
        (train or train_in_process)(member, run, run.exists)
    return runs


def check_options(member: Member, run: Run) -> None:
    """Raise `RunError` if there is a run of this name with other options."""
    if not run.exists:
        return
    recorded = Config.load(str(run.path / "run.yaml"))
    model = member.config.model
    if model.vocab_size is None:
        model = model.model_copy(update={"vocab_size": recorded.model.vocab_size})
    if (recorded.model, recorded.train) != (model, member.config.train):
        raise RunError(
            f"The run {run.name} exists already, with other options; give another --run name."
        )


def train_in_process(member: Member, run: Run, resume: bool) -> None:
    """`kgpt train`, or its resumption."""
    command = [sys.executable, "-m", "kgpt", "train"]
    if resume:
        command += ["--resume"]
    else:
        run.path.mkdir(parents=True, exist_ok=True)
        file = run.path / "scaling.yaml"
        file.write_text(member.config.to_yaml(), encoding="utf-8")
        command += [str(file)]
    done = subprocess.run(
        [*command, "--run", run.name, "--quiet"], stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 130 or run.status().state == "stopped":
        raise KeyboardInterrupt
    if done.returncode:
        raise KgptError(f"The run {run.name} failed: {done.stderr.strip().removeprefix('kgpt: ')}")


def observe(runs: Sequence[Run]) -> list[Observation]:
    """Size, tokens and last validation loss of each run that has finished.

    Raises `DataError` for one that has no validation loss, or whose tokens are not known.
    """
    found = []
    for run in runs:
        status = run.status()
        losses = [row["val_loss"] for row in run.metrics() if "val_loss" in row]
        if status.state != "finished" or not losses or not status.tokens_seen:
            raise DataError(
                f"The run {run.name} has not finished with a validation loss; resume it with "
                f"`kgpt train --run {run.name} --resume`, or leave it out."
            )
        model = Config.load(str(run.path / "run.yaml")).model
        found.append(
            Observation(run.name, matmul_parameters(model), status.tokens_seen, losses[-1])
        )
    return found


def matmul_parameters(model: ModelConfig) -> float:
    """The weights that take part in matrix products, each 6 FLOPs a token: not looked-up rows."""
    lookups = model.max_length * model.hidden_dim * (model.position == "learned")
    lookups += model.known_vocab_size * model.hidden_dim * (not model.tie_embeddings)
    return float(model.num_parameters() - lookups)
