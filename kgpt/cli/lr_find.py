"""`kgpt lr-find`: a learning rate for a configuration, by a range test."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from kgpt.cli.environment import prepare_process
from kgpt.cli.options import MemoryFraction, StrictInt
from kgpt.config import Config, parse_overrides

if TYPE_CHECKING:
    from kgpt.lab.learning_rate import RangeTest

FLAGS = ("--data", "--low", "--high", "--steps", "--smoothing", "--png", "--json",
         "--memory-fraction")  # fmt: skip
MAX_WIDTH = 100


def lr_find(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    data: str | None = None,
    low: float = 1e-5,
    high: float = 1.0,
    steps: StrictInt = 100,
    smoothing: float = 0.9,
    png: str | None = None,
    memory_fraction: MemoryFraction = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Train a few steps with growing learning rates, and suggest one; nothing is saved.

    The suggestion is the middle of the longest descent of the smoothed loss (fastai's valley);
    steepest is where it falls fastest (as in Lightning). It is for the model, optimizer and batch
    size of the configuration.

    Parameters
    ----------
    config
        A preset or a YAML file; any key can be set, as with `kgpt train`.
    data
        A data set made by `kgpt data prepare`.
    low
        The first rate.
    high
        The last rate; it ends before where the loss is four times the lowest.
    steps
        Updates of the weights.
    smoothing
        The weight of the moving average, from 0 to below 1, as in TensorBoard.
    png
        Also draw the losses to this file (extra `plots`).
    json_
        Print one JSON object.
    """
    changes = parse_overrides(overrides, FLAGS)
    if data is not None:
        changes["data.dir"] = data
    resolved = Config.load(config, changes)
    resolved.data.check_named()
    prepare_process(memory_fraction)
    from kgpt.lab.learning_rate import find_learning_rate
    from kgpt.lab.learning_rate_figure import write_figure

    with Console(stderr=True).status(f"training up to {steps} steps; compiling comes first"):
        test = find_learning_rate(resolved, low, high, steps, smoothing)
    if png is not None:
        write_figure(test, Path(png))
    if json_:
        print(json.dumps(asdict(test) | {"suggestion": test.suggestion}))
        return
    _print(test)


def _print(test: RangeTest) -> None:
    from kgpt.lab.terminal_plot import STYLES, plot

    console = Console()
    low, high = min(test.smoothed), max(test.smoothed)
    curves = [([math.log10(rate) for rate in test.rates], test.smoothed)]
    curves += [([math.log10(rate)] * 2, [low, high]) for rate in (test.valley, test.steepest)]
    console.print(Text("loss by learning rate", style="bold"))
    console.print(
        plot(curves, min(console.width, MAX_WIDTH), x_label=lambda x: f"{10**x:.1e}"),
    )
    for name, rate, style in (
        ("valley", test.valley, STYLES[1]), ("steepest", test.steepest, STYLES[2])
    ):  # fmt: skip
        console.print(Text.assemble((f"{name:>8}", style), f"  {rate:.1e}"))
    ended = f", where the loss diverged at {test.rates[-1]:.1e}" if test.diverged else ""
    console.print(
        Text(f"Try --train.learning-rate {test.suggestion:.1e} ({len(test.rates)} steps{ended}).")
    )
