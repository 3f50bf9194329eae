"""The same metrics for other tools: TensorBoard, Weights & Biases, trackio."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from kgpt.config import Config
from kgpt.errors import UsageError
from kgpt.runs import Run


def make_trackers(config: Config, run: Run) -> list[TensorBoardRows | TrackerRows]:
    """What the configuration asks for: each takes metric rows, and has a `close`."""
    trackers: list[TensorBoardRows | TrackerRows] = []
    if config.train.tracker:
        trackers.append(TrackerRows(config.train.tracker, run, config.model_dump()))
    if config.train.tensorboard:
        trackers.append(TensorBoardRows(run))
    return trackers


class TensorBoardRows:
    """Writes TensorBoard event files under the run's tensorboard/."""

    def __init__(self, run: Run):
        if find_spec("tensorboard") is None:
            raise UsageError(
                "train.tensorboard needs the package tensorboard; "
                '`pip install "kgpt[tracking]"`, or leave it out.'
            )
        import tensorflow as tf

        self._tf = tf
        self._writer = tf.summary.create_file_writer(str(run.path / "tensorboard"))

    def __call__(self, row):
        with self._writer.as_default(step=row["step"]):
            for name, value in _figures(row):
                self._tf.summary.scalar(name, value)

    def close(self):
        self._writer.close()


class TrackerRows:
    """Sends rows to wandb or trackio, which share their interface."""

    def __init__(self, name: str, run: Run, config: dict):
        try:
            tracker = import_module(name)
        except ImportError:
            raise UsageError(
                f"train.tracker is {name}, which is not installed; `pip install {name}`."
            ) from None
        self._session = tracker.init(project="kgpt", name=run.name, config=config)

    def __call__(self, row):
        self._session.log(dict(_figures(row)), step=row["step"])

    def close(self):
        self._session.finish()


def _figures(row):
    return ((name, value) for name, value in row.items() if name not in ("step", "time"))
