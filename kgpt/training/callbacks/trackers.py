"""The rows of metrics for experiment trackers: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kgpt.config import Config
from kgpt.errors import UsageError
from kgpt.runs import Run
from kgpt.training.callbacks.metrics_logger import MetricsRow


def make_trackers(config: Config, run: Run) -> list[TensorBoardTracker | ExperimentTracker]:
    """The trackers of a configuration: each is called with rows of metrics, and has a `close`.

    Raises `UsageError` if the package of one is not installed.
    """
    trackers: list[TensorBoardTracker | ExperimentTracker] = []
    if config.train.tracker:
        trackers.append(ExperimentTracker(config.train.tracker, run, config.model_dump()))
    if config.train.tensorboard:
        trackers.append(TensorBoardTracker(run))
    return trackers


class TensorBoardTracker:
    """Writes TensorBoard event files into the run's tensorboard/."""

    def __init__(self, run: Run):
        if find_spec("tensorboard") is None:
            raise UsageError(
                "train.tensorboard needs the package tensorboard; "
                '`pip install "kgpt[tracking]"`, or leave it out.'
            )
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(str(run.path / "tensorboard"))

    def __call__(self, row: MetricsRow) -> None:
        with self._writer.as_default(step=row["step"]):
            for name, value in _scalars(row):
                self._tf.summary.scalar(name, value)

    def close(self) -> None:
        self._writer.close()


class ExperimentTracker:
    """Sends rows to wandb or trackio, which share their interface."""

    def __init__(self, package: str, run: Run, config: dict[str, Any]):
        try:
            tracker = import_module(package)
        except ImportError:
            raise UsageError(
                f"train.tracker is {package}, which is not installed; "
                '`pip install "kgpt[tracking]"` brings it.'
            ) from None
        self._session = tracker.init(project="kgpt", name=run.name, config=config)

    def __call__(self, row: MetricsRow) -> None:
        self._session.log(dict(_scalars(row)), step=row["step"])

    def close(self) -> None:
        self._session.finish()


def _scalars(row: MetricsRow) -> Iterator[tuple[str, float]]:
    return ((name, value) for name, value in row.items() if name not in ("step", "time"))
