"""`kgpt runs reproduce`: train a run again, and say what differs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from kgpt.cli.environment import prepare_process
from kgpt.cli.train import redirect_output
from kgpt.errors import RunError
from kgpt.runs import find_run, new_run


def reproduce(
    run: str,
    *,
    name: Annotated[str | None, Parameter(name="--run")] = None,
    check: Annotated[bool, Parameter(negative="")] = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Train a run again as a new one, and compare the losses step by step.

    First it says what is not here as it was: versions, backend, device, processor, data set. With
    the same ones the losses are the same numbers. The exit code is 1 if they are not. An
    interrupted repetition goes on when the command is given again.

    Parameters
    ----------
    run
        The name of the run.
    name
        The name of the new run; the run's with -again if not given.
    check
        Only say what differs here; train nothing.
    quiet
        Show no progress.
    json_
        Print one JSON object.
    """
    found, target = find_run(run), new_run(name or f"{find_run(run).name}-again")
    if target.path.resolve() == found.path.resolve():
        raise RunError("A run cannot be its own repetition; give another name with --run.")
    prepare_process()
    from kgpt.lab.reproduce import Reproduction, changes_since
    from kgpt.lab.reproduce import reproduce as train_again

    changes, console = changes_since(found), Console(quiet=quiet or json_)
    for what, (before, now) in changes.items():
        console.print(f"{what}: {before} → {now}", markup=False, highlight=False)
    if not changes:
        console.print("nothing is known to differ from where the run was trained")
    result: Reproduction | None = None
    if not check:
        target.lock()
        try:
            with redirect_output(target.log) as terminal:
                terminal.quiet = quiet or json_
                result = train_again(found, target, terminal, quiet or json_)
        finally:
            target.unlock()
        if result is None:
            return 130
        console.print(verdict(found.name, result), markup=False, highlight=False)
    if json_:
        values: dict[str, Any] = {"changes": changes, "run": target.name}
        print(json.dumps(values | {"losses": asdict(result) if result else None}))
    return 0 if result is None or result.is_equal else 1


def verdict(name: str, result: Any) -> str:
    """How the losses compare, in a sentence."""
    if not result.steps:
        return f"no step has a loss in both runs, so {name} could not be compared"
    if result.is_equal:
        return f"the losses of {result.steps} steps are those of {name}"
    return (
        f"the losses differ from those of {name} from step {result.first_difference} on, "
        f"by {result.max_difference:.2g} at most"
    )
