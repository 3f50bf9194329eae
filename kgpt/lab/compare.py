"""Runs side by side: where their configurations differ, and their curves on a common axis."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kgpt.config import Config, read_yaml
from kgpt.errors import UsageError
from kgpt.lab.trackers.tracked_run import flatten
from kgpt.runs import Run

Axis = Literal["step", "tokens", "time", "flops"]
AXIS_LABELS: dict[Axis, str] = {
    "step": "step",
    "tokens": "tokens",
    "time": "seconds of training",
    "flops": "FLOPs of training",
}


@dataclass(frozen=True)
class Curve:
    """A metric of a run.

    Attributes:
        x: on the axis of the comparison.
        y: the metric, smoothed.
        raw: as it was logged.
    """

    run: str
    x: list[float]
    y: list[float]
    raw: list[float]


@dataclass(frozen=True)
class Summary:
    """How far a run is, its last loss and its lowest validation loss."""

    run: str
    step: int
    loss: float | None
    best_val_loss: float | None


@dataclass(frozen=True)
class Comparison:
    """Several runs.

    Attributes:
        differences: for each option in which they differ, its value in each run.
    """

    metric: str
    axis: Axis
    smoothing: float
    runs: list[Summary]
    differences: dict[str, list[Any]]
    curves: list[Curve]


def compare(
    runs: Sequence[Run], metric: str = "loss", axis: Axis = "step", smoothing: float = 0.0
) -> Comparison:
    """Compare the configurations of runs, and one of their metrics.

    Args:
        metric: a key of the rows of metrics.jsonl, such as loss or val_loss.
        axis: "time" is that of training, without compilation, validation and pauses (of a run
            imported from other software all of it); "flops" are of forward and backward pass.
        smoothing: weight of the average so far against the next value, below 1; see `smooth`.

    Raises `UsageError` if no run has logged the metric, or an argument is out of range.
    """
    if axis not in get_args(Axis):
        raise UsageError(f"The axis is one of {', '.join(get_args(Axis))}, not {axis}.")
    if not 0 <= smoothing < 1:
        raise UsageError(f"The smoothing must be at least 0 and below 1, not {smoothing}.")
    rows = [run.metrics() for run in runs]
    known = sorted({key for some in rows for row in some for key in row} - {"step", "time"})
    if any(rows) and metric not in known:
        raise UsageError(f"No run has logged {metric!r}; they have: {', '.join(known)}.")
    curves = [
        _curve(run, some, metric, axis, smoothing) for run, some in zip(runs, rows, strict=True)
    ]
    summaries = [_summary(run, some) for run, some in zip(runs, rows, strict=True)]
    return Comparison(metric, axis, smoothing, summaries, differences(runs), curves)


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """For each option in which the configurations differ, its value in each; None: not given."""
    configs = [_flat(read_yaml(run.path / "run.yaml")) | _imported_config(run) for run in runs]
    values = {
        key: [config.get(key) for config in configs]
        for key in sorted({key for config in configs for key in config})
    }
    return {key: some for key, some in values.items() if any(one != some[0] for one in some)}


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """The exponential moving average of `values`, without the bias of its start, as in TensorBoard.

    >>> smooth([4.0, 2.0], 0.5)
    [4.0, 2.6666666666666665]
    """
    smoothed, average = [], 0.0
    for count, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        smoothed.append(average / (1 - weight**count))
    return smoothed


def _curve(
    run: Run, rows: list[dict[str, Any]], metric: str, axis: Axis, smoothing: float
) -> Curve:
    places = _places(run, rows, axis)
    points = [
        (x, float(row[metric]))
        for x, row in zip(places, rows, strict=True)
        if isinstance(row.get(metric), int | float) and math.isfinite(row[metric])
    ]
    raw = [y for _, y in points]
    return Curve(run.name, [x for x, _ in points], smooth(raw, smoothing), raw)


def _places(run: Run, rows: list[dict[str, Any]], axis: Axis) -> list[float]:
    """Where each row is on an axis."""
    steps = [float(row["step"]) for row in rows]
    status = run.status()
    tokens_per_step = status.tokens_seen / status.step if status.step else 0.0
    if axis == "step":
        return steps
    if axis in ("tokens", "flops") and rows and not tokens_per_step:
        raise UsageError(f"How many tokens {run.name} has seen is not known; compare by step.")
    if axis == "tokens":
        return [step * tokens_per_step for step in steps]
    if axis == "flops":
        config = Config.load(str(run.path / "run.yaml"))
        per_token = config.model.flops_per_token(config.train.sequence_length)
        # The gradients of frozen weights are not computed.
        share = 2 / 3 if config.finetune.has_adapters else 1.0
        return [step * tokens_per_step * per_token * share for step in steps]
    if (run.path / "imported.json").exists() and not tokens_per_step:
        return [row["time"] - rows[0]["time"] for row in rows]
    return _training_seconds(rows, tokens_per_step)


def _training_seconds(rows: list[dict[str, Any]], tokens_per_step: float) -> list[float]:
    """Seconds from the first row on: rows have the tokens a second since the last that has them."""
    seconds, places, measured = 0.0, [], None
    for row in rows:
        if measured is None:
            measured = row["step"]
        elif rate := row.get("tokens_per_s"):
            seconds += max(0, row["step"] - measured) * tokens_per_step / rate
            measured = row["step"]
        places.append(seconds)
    return places


def _summary(run: Run, rows: list[dict[str, Any]]) -> Summary:
    last = next((row["loss"] for row in reversed(rows) if "loss" in row), None)
    best = min((row["val_loss"] for row in rows if "val_loss" in row), default=None)
    return Summary(run.name, run.status().step, last, best)


def _imported_config(run: Run) -> dict[str, Any]:
    """The configuration of a run of other software, by dotted name."""
    try:
        config = json.loads((run.path / "imported.json").read_bytes())["config"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(flatten(config))


def _flat(config: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{s}.{key}": value for s, keys in config.items() for key, value in keys.items()}
