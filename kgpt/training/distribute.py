"""A run's devices: what `distribute` asks for, before its model is made."""

from __future__ import annotations

from kgpt import backend
from kgpt.config import Config, DistributeConfig
from kgpt.errors import UsageError
from kgpt.training.task import Task


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


def check_task(task: Task) -> None:
    """Raise `UsageError` if a task is to be spread over more than it can be."""
    config, processes = task.config, backend.distribution.process_count()
    what = f"finetune.objective {config.finetune.objective}"
    if mesh_of(config.distribute).num_devices > 1 and not task.can_distribute:
        raise UsageError(
            f"{what} trains on one device; leave distribute.data and distribute.model out, and "
            "start one process."
        )
    if processes > 1 and not task.divides_batches:
        raise UsageError(
            f"{what} trains in one process, not in {processes}; start one, with distribute.data "
            "for its devices."
        )
    if processes > 1 and config.train.eval_suite is not None:
        raise UsageError(
            "train.eval_suite needs one process; leave it out, and use `kgpt eval` afterwards."
        )
