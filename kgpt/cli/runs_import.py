"""`kgpt runs import`: runs of other trainers, by their experiment tracker. No Keras, no network."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from kgpt.lab.trackers.importing import ImportedRun


def import_(
    path: str,
    *,
    from_: Annotated[
        Literal["tensorboard", "wandb", "trackio"] | None, Parameter(name="--from")
    ] = None,
    run: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Make run directories of what TensorBoard, W&B (offline) or trackio has recorded.

    Metrics get kgpt's names where they have others: train/loss is loss, eval/loss is val_loss.

    Parameters
    ----------
    path
        An event file, a .wandb file, a database of trackio, or a folder of such files.
    from_
        The tracker; recognized by the files if not given.
    run
        The name of the run, if there is only one; the tracker's if not given.
    json_
        Print one JSON object.
    """
    from kgpt.lab.trackers.importing import import_runs

    imported = import_runs(Path(path), from_, run)
    if json_:
        print(json.dumps([asdict(one) for one in imported], ensure_ascii=False))
        return
    for one in imported:
        Console().print(Text(_described(one)))


def _described(imported: ImportedRun) -> str:
    """What became of a run in a sentence or two."""
    names = [imported.renamed.get(name, name) for name in imported.metrics]
    text = f"{imported.run}: {imported.steps} steps with {', '.join(names)}."
    if imported.renamed:
        renamed = ", ".join(f"{theirs} is {ours}" for theirs, ours in imported.renamed.items())
        text += f" Renamed: {renamed}."
    if imported.skipped:
        skipped = ", ".join(f"{count} {kind}" for kind, count in imported.skipped.items())
        text += f" Left out, as no numbers: {skipped}."
    return text
