"""Which process of how many this one is, and where they meet: the launcher contract.

A group is stated by flags of `kgpt train`, by environment variables that a launcher sets, or by a
scheduler. In order of precedence:

1. the flags `--coordinator`, `--num-processes`, `--process-id`
2. `KERAS_DISTRIBUTION_JOB_ADDRESSES`, `_NUM_PROCESSES`, `_PROCESS_ID`: Keras and `kgpt launch`
3. `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`: JAX and Kubeflow Trainer
4. `COORDINATOR_ADDRESS`, `NUM_PROCESSES`, `PROCESS_ID`: Kubeflow's JAXJob
5. `TF_CONFIG`: TensorFlow
6. `MASTER_ADDR`, `WORLD_SIZE`, `RANK`: torchrun
7. the scheduler: Open MPI, another MPI with PMI, a task of `srun`, an indexed Job of Kubernetes

The coordinator is the first that is stated. Whoever of 1 to 6 states the size or the rank must
agree with the others; what none of them states, the scheduler does. A scheduler is not compared
with a launcher that states all, because a launcher may run within its tasks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kgpt.errors import UsageError
from kgpt.launch.launchers import LAUNCHERS
from kgpt.launch.schedulers import SCHEDULERS
from kgpt.launch.stated import Stated, address


@dataclass(frozen=True)
class ProcessGroup:
    """A group of processes that train one model.

    Attributes:
        coordinator: HOST:PORT where process 0 listens and the others meet it.
        num_processes: the size of the group, called world size by PyTorch.
        process_id: of this process, from 0 on; called rank by PyTorch.
        local_process_id: of this process among those of its machine, if known.
        local_num_processes: processes on this machine, if known.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_process_id: int | None = None
    local_num_processes: int | None = None

    @property
    def is_primary(self) -> bool:
        """Whether this process writes the run directory."""
        return self.process_id == 0

    @property
    def local_device_ids(self) -> list[int] | None:
        """The GPUs of this process, where several share a machine; None for all of them."""
        if self.local_process_id is None or (self.local_num_processes or 1) == 1:
            return None
        return [self.local_process_id]


def find_process_group(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ProcessGroup | None:
    """The group that this process belongs to; None if it trains alone.

    Args:
        coordinator, num_processes, process_id: what flags state.

    Raises:
        UsageError: what is stated is incomplete, impossible or contradictory.
    """
    names = ("--coordinator", "--num-processes", "--process-id")
    flags = Stated("the flags", names, address(coordinator), num_processes, process_id)
    stated = [flags, *(read(environ) for read in LAUNCHERS)]
    merged = _merge([one for one in stated if one is not None])
    if merged.num_processes is None or merged.process_id is None:
        merged = _complete(merged, environ)
    if merged.num_processes is None and merged.process_id is None:
        if merged.coordinator and merged.names[0] != "MASTER_ADDR":
            raise UsageError(
                f"{merged.names[0]} names the coordinator {merged.coordinator}, but nothing says "
                f"how many processes there are; set {merged.names[1]} and {merged.names[2]}."
            )
        return None
    return _checked(merged)


def _merge(stated: list[Stated]) -> Stated:
    """The first of each value; raises `UsageError` where sizes or ranks differ."""
    merged = Stated("nothing", stated[0].names)
    for one in stated:
        for field, index in (("num_processes", 1), ("process_id", 2)):
            here, before = getattr(one, field), getattr(merged, field)
            if None not in (here, before) and here != before:
                raise UsageError(
                    f"{merged.names[index]} is {before}, but {one.names[index]} is {here}; unset "
                    "one of them."
                )
        merged = merged.filled_from(one)
    return merged


def _complete(merged: Stated, environ: Mapping[str, str]) -> Stated:
    """With what a scheduler states; raises `UsageError` if it is of a group of another size."""
    for read in SCHEDULERS:
        found = read(environ)
        if found is None:
            continue
        sizes = (merged.num_processes, found.num_processes)
        if None not in sizes and sizes[0] != sizes[1]:
            raise UsageError(
                f"{merged.names[1]} is {sizes[0]}, but {found.name} starts {sizes[1]} processes; "
                f"set {merged.names[2]}, too, or leave both to {found.name}."
            )
        return merged.filled_from(found)
    return merged


def _checked(stated: Stated) -> ProcessGroup | None:
    size, rank = stated.num_processes, stated.process_id
    if size is None:
        raise UsageError(f"{stated.names[2]} is {rank}, but {stated.names[1]} is not set.")
    if size < 1:
        raise UsageError(f"{stated.names[1]} is {size}; it should be 1 or more.")
    if size == 1 and not rank:
        return None
    if rank is None:
        raise UsageError(f"{stated.names[1]} is {size}, but {stated.names[2]} is not set.")
    if not 0 <= rank < size:
        raise UsageError(
            f"{stated.names[2]} is {rank}, but of {size} processes the last is {size - 1}."
        )
    if stated.coordinator is None:
        raise UsageError(
            f"{stated.name} states {size} processes, but not where they meet; set "
            "JAX_COORDINATOR_ADDRESS to HOST:PORT of process 0."
        )
    return ProcessGroup(
        stated.coordinator, size, rank, stated.local_process_id, stated.local_num_processes
    )
