"""`kgpt train`: resolve the configuration, lock the run directory, train."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import MemoryFraction
from kgpt.config import Config, parse_overrides, preset_path
from kgpt.errors import RunError, UsageError
from kgpt.runs import Run, new_run

FLAGS = ("--data", "--run", "--resume", "--memory-fraction", "--quiet", "--debug")


def train(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: str | None = None,
    run: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    memory_fraction: MemoryFraction = None,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train a model, or resume a run.

    Parameters
    ----------
    config
        The name of a preset, or a YAML file.
    data
        A data set made by `kgpt data prepare`.
    run
        The name of the run; the configuration's name and the time if not given.
    resume
        Resume from the run's latest valid checkpoint.
    quiet
        Print nothing.
    """
    changes = parse_overrides(overrides, FLAGS)
    if data is not None:
        changes["data.dir"] = data
    resolved = Config.load(config, changes)
    if resolved.data.dir is None:
        raise UsageError("No data set is named; give --data DIR, made by `kgpt data prepare`.")
    directory = new_run(run or _default_name(config, resume))
    return run_training(resolved, directory, resume, quiet, memory_fraction)


def run_training(
    config: Config, run: Run, resume: bool, quiet: bool, memory_fraction: float | None = None
) -> int:
    """Train in this process; returns the exit code."""
    prepare_process(memory_fraction)
    from kgpt.data.shards import TokenDataset

    TokenDataset(config.data.dir or "")  # fails before the run directory is created
    if run.exists and not resume:
        raise RunError(
            f"The run {run.name} exists already; resume it with --resume, "
            "or give another --run name."
        )
    if resume and not run.exists:
        raise RunError(f"There is no run {run.name} to resume; leave --resume out to start it.")
    run.lock()
    try:
        with redirect_output(run.log) as console:
            from kgpt.training.trainer import train as fit

            result = fit(config, run, resume, console, quiet)
    finally:
        run.unlock()
    return 130 if result.interrupted else 0


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


def _default_name(config: str, resume: bool) -> str:
    if resume:
        raise UsageError("Name the run to resume with --run.")
    preset_path(config)
    return f"{Path(config).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
