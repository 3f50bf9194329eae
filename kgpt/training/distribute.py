"""A run's devices: what `distribute` asks for, before its model is made."""

from __future__ import annotations

from kgpt import backend
from kgpt.config import Config, DistributeConfig


def distribute(config: Config) -> None:
    """Spread the models that are made from now on over the devices of a configuration.

    Raises `UsageError` if there are not so many devices, if they cannot divide a batch, or if the
    backend computes on one alone.
    """
    mesh = mesh_of(config.distribute)
    mesh.check_batch(config.train.batch_size)
    backend.distribution.distribute(mesh)


def mesh_of(distribute: DistributeConfig) -> DistributeConfig:
    """The mesh that is asked for; several processes divide a batch, if it does not say how.

    So a run may go on with another number of processes.
    """
    if backend.distribution.process_count() == 1 or distribute.data > 1:
        return distribute
    devices = max(1, backend.processes.device_count() // distribute.model)
    return distribute.model_copy(update={"data": devices})
