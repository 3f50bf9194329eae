"""`kgpt runs export`: runs as files of an experiment tracker. No Keras, no network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from kgpt.errors import UsageError
from kgpt.runs import find_run


def export(
    *runs: str,
    to: Literal["tensorboard", "wandb", "trackio"],
    out: str | None = None,
    project: str = "kgpt",
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Write runs as files of TensorBoard, W&B (offline) or trackio; nothing is uploaded.

    Parameters
    ----------
    runs
        The names of the runs.
    to
        The tracker.
    out
        TensorBoard: the log directory, ./tensorboard if not given. W&B: where the folder wandb is
        made, here if not given. trackio: the folder of its databases, its own if not given.
    project
        The project of W&B or trackio.
    json_
        Print one JSON object.
    """
    from kgpt.lab.trackers.export import export_runs

    if not runs:
        raise UsageError("Name at least one run to export.")
    found = [find_run(name) for name in runs]
    paths = export_runs(found, to, Path(out) if out is not None else None, project)
    if json_:
        written = {run.name: str(path) for run, path in zip(found, paths, strict=True)}
        print(json.dumps(written, ensure_ascii=False))
        return
    for run, path in zip(found, paths, strict=True):
        Console().print(Text(f"{run.name}: {path}"))
