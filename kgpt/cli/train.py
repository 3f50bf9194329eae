"""`kgpt train`: resolve the configuration, lock the run directory, train."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import MemoryFraction, StrictInt
from kgpt.cli.process_group import joined, prepared
from kgpt.config import (
    PREFERENCE_OBJECTIVES,
    Config,
    EvaluationSuite,
    parse_overrides,
    preset_path,
    presets,
)
from kgpt.errors import RunError, UsageError
from kgpt.launch.process_group import ProcessGroup, find_process_group
from kgpt.runs import Run, new_run, resolve_checkpoint

if TYPE_CHECKING:
    from kgpt.training.callbacks.status_writer import StatusWriter
    from kgpt.training.callbacks.step_callback import StepCallback
    from kgpt.training.task import Task

FLAGS = (
    "--data",
    "--run",
    "--resume",
    "--from",
    "--skip-steps",
    "--stop-at",
    "--coordinator",
    "--num-processes",
    "--process-id",
    "--memory-fraction",
    "--quiet",
    "--debug",
)


def train(
    config: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: str | None = None,
    run: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    fork_of: Annotated[str | None, Parameter(name="--from")] = None,
    skip_steps: str | None = None,
    stop_at: Annotated[StrictInt | None, Parameter(validator=Number(gte=1))] = None,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    memory_fraction: MemoryFraction = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model, resume a run, or fork one.

    Parameters
    ----------
    config
        The name of a preset, or a YAML file. With --resume it may be left out.
    data
        A data set made by `kgpt data prepare`: its folder, or its address, such as s3://bucket/set.
    run
        The name of the run; the configuration's name and the time if not given.
    resume
        Resume the run from its latest valid checkpoint, as its run.yaml says. What CONFIG and
        flags state changes it, where it may change.
    fork_of
        Go on from a checkpoint of another run as a new run: RUN@STEP, RUN@best, or RUN for its
        latest. Its run.yaml is the configuration; CONFIG, --data and flags change it, where it may
        change.
    skip_steps
        Leave out the data of these steps, such as 1200-1230; the same as --train.skip-steps.
    stop_at
        Save and stop after this step. The schedule stays that of train.max_steps, so the run can be
        resumed as if it had never stopped.
    coordinator
        HOST:PORT where the processes that train one model meet, if no launcher or scheduler says
        so: process 0 listens there.
    num_processes
        How many processes train the model.
    process_id
        The rank of this process, from 0 on.
    quiet
        Print nothing.
    """
    config, flags = split_flags(config, overrides)
    changes = parse_overrides(flags, FLAGS)
    group = find_process_group(coordinator, num_processes, process_id)
    if data is not None:
        changes["data.dir"] = data
    if skip_steps is not None:
        changes["train.skip_steps"] = skip_steps
    if resume and fork_of is not None:
        raise UsageError("--from starts a new run; leave --resume out.")
    if fork_of is not None:
        parent = Run(resolve_checkpoint(fork_of).parent.parent)
        directory = new_run(run or f"{parent.name}-{time.strftime('%Y%m%d-%H%M%S')}")
        resolved = Config.resume(parent.path / "run.yaml", config, changes)
    elif resume:
        directory = run_to_resume(run)
        resolved = Config.resume(directory.path / "run.yaml", config, changes)
    else:
        directory, resolved = named_run(run, config), Config.load(config or "", changes)
    resolved.data.check_named()
    return run_training(
        resolved,
        directory,
        resume,
        quiet,
        memory_fraction,
        fork_of=fork_of,
        stop_at=stop_at,
        group=group,
    )


def split_flags(config: str | None, overrides: Sequence[str]) -> tuple[str | None, list[str]]:
    """The configuration that is named, if any, and the flags."""
    if config is not None and config.startswith("--"):  # a flag: no configuration is named
        return None, [config, *overrides]
    return config, list(overrides)


def run_to_resume(name: str | None) -> Run:
    if name is None:
        raise UsageError("Name the run to resume with --run.")
    run = new_run(name)
    if not run.exists:
        raise RunError(f"There is no run {name} to resume; leave --resume out to start it.")
    return run


def named_run(name: str | None, config: str | None) -> Run:
    """The directory of a run that is called `name`, or after its configuration and the time."""
    if config is None:
        raise UsageError(
            f"Name a preset or a YAML file; the presets are {', '.join(presets(finetune=False))}."
        )
    preset_path(config)  # raises if there is none
    return new_run(name or f"{Path(config).stem}-{time.strftime('%Y%m%d-%H%M%S')}")


def run_training(
    config: Config,
    run: Run,
    resume: bool,
    quiet: bool,
    memory_fraction: float | None = None,
    prepare: Callable[[Console], Config] | None = None,
    fork_of: str | None = None,
    stop_at: int | None = None,
    group: ProcessGroup | None = None,
) -> int:
    """Train in this process; returns the exit code.

    Args:
        prepare: makes what is in the run's directory before training, and returns the
            configuration with it; called with the console, once the run is locked.
        fork_of: the checkpoint that a new run goes on from.
        stop_at: the step after which it is saved and stopped; None for the last one.
        group: the processes that train it, of which this is one; found in the environment if None.
    """
    prepare_process(memory_fraction)
    group = find_process_group() if group is None else group
    with joined(group, run) as run:
        interrupted = _train(config, run, resume, quiet, prepare, fork_of, stop_at)
    return 130 if interrupted else 0


def _train(
    config: Config,
    run: Run,
    resume: bool,
    quiet: bool,
    prepare: Callable[[Console], Config] | None,
    fork_of: str | None,
    stop_at: int | None,
) -> bool:
    """Claim the run, and train it; returns whether it was interrupted."""
    from kgpt.data.shards import TokenDataset
    from kgpt.training.distribute import distribute

    distribute(config)  # fails before the run directory is created
    if config.train.eval_suite is not None:
        EvaluationSuite.load(Path(config.train.eval_suite))  # fails before the run is created
    if config.data.dir is not None and config.finetune.objective not in PREFERENCE_OBJECTIVES:
        TokenDataset(config.data.dir)  # fails before the run directory is created
    run.claim(resume)
    quiet = quiet or not run.is_writer
    try:
        with redirect_output(run.log) if run.is_writer else _silent() as console:
            from kgpt.training.task import make_task
            from kgpt.training.trainer import train as fit

            console.quiet = quiet
            task = make_task(prepared(run, prepare, console) if prepare else config)
            result = fit(task, run, resume, console, quiet, fork_of, _suite_callback, stop_at)
    finally:
        run.unlock()
    return result.interrupted


@contextlib.contextmanager
def _silent() -> Iterator[Console]:
    """A console of a process that does not write the run; what native code prints stays."""
    yield Console(quiet=True)


def _suite_callback(task: Task, status: StatusWriter) -> list[StepCallback]:
    """The evaluations of `train.eval_suite`, if any."""
    train = task.config.train
    if train.eval_suite is None or not train.eval_every:
        return []
    from kgpt.evaluation.suite_callback import SuiteCallback

    suite = EvaluationSuite.load(Path(train.eval_suite))
    return [SuiteCallback(suite, task.tokenizer, train.eval_every, train.max_steps, status)]


@contextlib.contextmanager
def redirect_output(log: Path) -> Iterator[Console]:
    """Redirect stdout and stderr to the log, and yield a console on the real terminal.

    Output of native code would break the progress bar on the terminal.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    encoding, errors = sys.stdout.encoding, sys.stdout.errors
    terminal = os.fdopen(os.dup(saved[0]), "w", encoding=encoding, errors=errors)
    try:
        yield Console(file=terminal)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for handle in saved:
            os.close(handle)
        with contextlib.suppress(BrokenPipeError):
            terminal.close()
