"""This process among those that train one run: it joins them before, and ends with them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml
from rich.console import Console

from kgpt.config import Config
from kgpt.launch.joined_group import JoinedGroup
from kgpt.launch.process_group import ProcessGroup
from kgpt.runs import Run
from kgpt.runs.group_run import GroupRun

# Whether this process must end without waiting for the others, which JAX does at exit.
ends_at_once = False


@contextlib.contextmanager
def joined(group: ProcessGroup | None, run: Run) -> Iterator[Run]:
    """A block in which this process trains with the others of `group`, if there is one.

    Yields the run that all of them train: process 0 has named it, and writes it.

    Raises:
        UsageError: the backend trains in one process, or the others did not come.
        ProcessLost: one of them is lost. Where this process cannot raise it, because it waits for
            the lost one within a step, it says so and exits with 1.
    """
    global ends_at_once
    if group is None:
        yield run
        return
    from kgpt import backend

    members = JoinedGroup(group, backend.processes.join(group), backend.processes.leave)
    ends_at_once = True
    shared = GroupRun(Path(members.broadcast(lambda: str(run.path.absolute()))), members)
    members.watch(_ending(shared))
    try:
        yield shared
    except BaseException as error:
        members.fail(error)
        raise
    members.leave()
    ends_at_once = False


def _ending(run: Run) -> Callable[[str], None]:
    """Ends this process with a sentence, whatever it waits for."""
    terminal = os.dup(2)  # standard error becomes the log of the run

    def end(sentence: str) -> None:
        with contextlib.suppress(OSError):
            os.write(terminal, f"kgpt: {sentence}\n".encode())
            run.write_status(run.status().model_copy(update={"state": "failed", "error": sentence}))
        os._exit(1)

    return end


def prepared(run: Run, prepare: Callable[[Console], Config], console: Console) -> Config:
    """The configuration that `prepare` makes; process 0 prepares, and the others train with it."""
    made: list[Config] = []

    def make() -> str:
        made.append(prepare(console))
        return made[0].to_yaml()

    text = run.shared(make)
    return made[0] if made else Config.parse(yaml.safe_load(text))
