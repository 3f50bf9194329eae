"""A scaling study as a PNG file, and its curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kgpt.formatting import count
from kgpt.lab.figures import add_legend, color, new_axes, save_png
from kgpt.lab.scaling.recommendation import ScalingStudy

POINTS = 60
Points = tuple[list[float], list[float]]


def curves_of_sizes(study: ScalingStudy) -> dict[float, Points]:
    """By number of parameters: FLOPs and losses of its runs."""
    found: dict[float, Points] = {}
    for one in sorted(study.observations, key=lambda one: (one.parameters, one.tokens)):
        flops, losses = found.setdefault(one.parameters, ([], []))
        flops.append(one.flops)
        losses.append(one.loss)
    return found


def frontier(study: ScalingStudy) -> Points:
    """The lowest loss that each budget allows by the law, over the budgets of interest."""
    budgets = [one.flops for one in study.observations] + [study.recommendation.flops]
    flops = np.geomspace(min(budgets), max(budgets), POINTS).tolist()
    return flops, [study.law.loss(*study.law.optimum(one)) for one in flops]


def write_figure(study: ScalingStudy, file: Path) -> None:
    """Draw the loss by FLOPs: a line for each size, the law's frontier, and the recommendation.

    Raises:
        UsageError: matplotlib is not installed.
        KgptError: the file cannot be written.
    """
    axes = new_axes("Loss by compute", "FLOPs (6 N D)", "validation loss")
    axes.set_xscale("log")
    for index, (parameters, (flops, losses)) in enumerate(curves_of_sizes(study).items()):
        axes.plot(flops, losses, "o-", color=color(index), label=f"{count(parameters)} parameters")
    axes.plot(*frontier(study), "--", color="#444444", label="lowest loss, by the law")
    best = study.recommendation
    axes.errorbar(
        [best.flops], [best.loss.value],
        yerr=[[max(0.0, best.loss.value - best.loss.low)],
              [max(0.0, best.loss.high - best.loss.value)]],
        fmt="*", color="#444444", capsize=3,
        label=f"{count(best.parameters.value)} parameters, {count(best.tokens.value)} tokens",
    )  # fmt: skip
    add_legend(axes)
    save_png(axes, file)
