"""A learning-rate range test as a PNG file."""

from __future__ import annotations

from pathlib import Path

from kgpt.lab.figures import add_legend, color, new_axes, save_png
from kgpt.lab.learning_rate import RangeTest


def write_figure(test: RangeTest, file: Path) -> None:
    """Draw the losses by rate, and the suggestions.

    Raises:
        UsageError: matplotlib is not installed.
        KgptError: the file cannot be written.
    """
    axes = new_axes("Learning-rate range test", "learning rate", "loss")
    axes.set_xscale("log")
    axes.plot(test.rates, test.losses, color=color(0), alpha=0.3)
    axes.plot(test.rates, test.smoothed, color=color(0), label="loss, smoothed")
    for index, (name, rate) in enumerate((("valley", test.valley), ("steepest", test.steepest)), 1):
        axes.axvline(rate, color=color(index), linestyle="--", label=f"{name}: {rate:.1e}")
    add_legend(axes)
    save_png(axes, file)
