"""`kgpt scaling`: how loss falls with size and tokens, and what a budget allows. No Keras."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kgpt.config import Config, parse_overrides
from kgpt.formatting import count, number
from kgpt.runs import Run, find_run

if TYPE_CHECKING:
    from kgpt.lab.scaling.recommendation import Interval, ScalingStudy

FLAGS = ("--data", "--run", "--sizes", "--tokens", "--budget", "--extrapolate", "--png", "--json")
MAX_WIDTH = 100
Budget = Annotated[float | None, Parameter(validator=Number(gt=0))]
Json = Annotated[bool, Parameter(name="--json", negative="")]


def train(
    config: str,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=True, show=False)],
    sizes: str,
    tokens: str,
    data: str | None = None,
    run: str = "scaling",
    budget: Budget = None,
    extrapolate: Annotated[bool, Parameter(negative="")] = False,
    png: str | None = None,
    json_: Json = False,
) -> None:
    """Train a model of each size for each number of tokens, then fit a scaling law.

    Each is a run, such as scaling-4x128-2.0M, whose learning rate decays to its own end. Called
    again, it trains only what is not finished.

    Parameters
    ----------
    config
        A preset or a YAML file; any key can be set, as with `kgpt train`.
    sizes
        Numbers of layers, such as 2,4,6, with widths in proportion to CONFIG's; or LAYERSxWIDTH.
    tokens
        Numbers of tokens to train on, such as 500k,2M,8M.
    data
        A data set made by `kgpt data prepare`.
    run
        What the names of the runs begin with.
    budget
        FLOPs to recommend a size and tokens for; those of the largest run if not given.
    extrapolate
        Allow a budget that leads beyond what was trained.
    png
        Also draw the losses to this file (extra `plots`).
    json_
        Print one JSON object.
    """
    from kgpt.lab.scaling.family import members, parse_sizes, parse_tokens
    from kgpt.lab.scaling.training import train_members

    changes = parse_overrides(overrides, FLAGS)
    if data is not None:
        changes["data.dir"] = data
    resolved = Config.load(config, changes)
    resolved.data.check_named()
    made = members(resolved, run, parse_sizes(sizes), parse_tokens(tokens))
    status = Console(stderr=True)
    runs = train_members(made, progress=lambda member: status.print(f"training {member.name}"))
    _fit(runs, budget, extrapolate, png, json_)


def fit(
    *runs: str,
    budget: Budget = None,
    extrapolate: Annotated[bool, Parameter(negative="")] = False,
    png: str | None = None,
    json_: Json = False,
) -> None:
    """Fit L(N, D) = E + A / N^alpha + B / D^beta to runs (Hoffmann et al., 2022).

    N counts the weights that take part in matrix products, D the tokens of training, L is the
    validation loss at the end. Intervals hold with a probability of 90%, by bootstrap.

    Parameters
    ----------
    runs
        The names of at least six runs, of three sizes and three numbers of tokens.
    budget
        FLOPs to recommend a size and tokens for; those of the largest run if not given.
    extrapolate
        Allow a budget that leads beyond what was trained.
    png
        Also draw the losses to this file (extra `plots`).
    json_
        Print one JSON object.
    """
    _fit([find_run(name) for name in runs], budget, extrapolate, png, json_)


def _fit(
    runs: list[Run], budget: float | None, extrapolate: bool, png: str | None, as_json: bool
) -> None:
    from kgpt.lab.scaling.figure import write_figure
    from kgpt.lab.scaling.recommendation import study
    from kgpt.lab.scaling.training import observe

    observations = observe(runs)
    model = Config.load(str(runs[-1].path / "run.yaml")).model if runs else None
    found = study(observations, budget, extrapolate, model)
    if png is not None:
        write_figure(found, Path(png))
    if as_json:
        print(json.dumps(asdict(found), ensure_ascii=False))
        return
    _print(found)


def _print(study: ScalingStudy) -> None:
    console = Console()
    console.print(_runs_table(study))
    _print_plot(console, study)
    table = Table(show_header=False, box=None)
    law = study.coefficients
    table.add_row("L(N, D)", "E + A / N^alpha + B / D^beta", style="dim")
    for name, interval in law.items():
        table.add_row(name, _interval(interval, lambda value: f"{value:.3g}"))
    console.print(table)
    best = study.recommendation
    console.print(Text(f"With {best.flops:.1e} FLOPs:", style="bold"))
    table = Table(show_header=False, box=None)
    shape = f", such as num_layers {best.layers}, hidden_dim {best.width}" if best.layers else ""
    table.add_row("parameters", _interval(best.parameters, count) + shape)
    table.add_row("tokens", _interval(best.tokens, count))
    table.add_row("loss", _interval(best.loss, number))
    console.print(table)
    if best.is_extrapolated:
        console.print(
            Text(f"This is {best.beyond:.1f} times beyond what was trained.", style="yellow")
        )


def _runs_table(study: ScalingStudy) -> Table:
    table = Table()
    for column in ("run", "parameters", "tokens", "FLOPs", "loss", "by the law"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for one in study.observations:
        table.add_row(
            Text(one.run), count(one.parameters), count(one.tokens), f"{one.flops:.1e}",
            number(one.loss), number(study.law.loss(one.parameters, one.tokens)),
        )  # fmt: skip
    return table


def _print_plot(console: Console, study: ScalingStudy) -> None:
    from kgpt.lab.scaling.figure import curves_of_sizes, frontier
    from kgpt.lab.terminal_plot import STYLES, plot

    sizes = curves_of_sizes(study)
    curves = [([math.log10(x) for x in flops], losses) for flops, losses in sizes.values()]
    flops, losses = frontier(study)
    curves.append(([math.log10(x) for x in flops], losses))
    names = [f"{count(size)} parameters" for size in sizes] + ["lowest loss, by the law"]
    legend = Text("loss by FLOPs: ", style="bold")
    for index, name in enumerate(names):
        legend.append(name + "  ", style=STYLES[index % len(STYLES)])
    console.print(legend)
    width = min(console.width, MAX_WIDTH)
    console.print(plot(curves, width, x_label=lambda x: f"{10**x:.1e}"))


def _interval(interval: Interval, form: Callable[[float], str]) -> str:
    return f"{form(interval.value)} ({form(interval.low)} to {form(interval.high)})"
