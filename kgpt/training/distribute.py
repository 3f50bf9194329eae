"""A run's devices: what `distribute` asks for, before its model is made."""

from __future__ import annotations

from kgpt import backend
from kgpt.config import Config


def distribute(config: Config) -> None:
    """Spread the models that are made from now on over the devices of a configuration.

    Raises `UsageError` if there are not so many devices, if they cannot divide a batch, or if the
    backend computes on one alone.
    """
    config.distribute.check_batch(config.train.batch_size)
    backend.distribution.distribute(config.distribute)
