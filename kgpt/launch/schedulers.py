"""What schedulers state of a process group in environment variables."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from kgpt.launch.stated import PORT, Stated, address, integer

SLURM = ("SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
OPEN_MPI = ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
PMI = ("JAX_COORDINATOR_ADDRESS", "PMI_SIZE", "PMI_RANK")
INDEXED_JOB = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JOB_COMPLETION_INDEX")
EPHEMERAL_PORTS = 2**12  # the last ones, of which a job's number chooses one

Environment = Mapping[str, str]


def slurm(environ: Environment) -> Stated | None:
    """A task of `srun`; a script of `sbatch` and a shell of `salloc` are none."""
    nodes, size = environ.get(SLURM[0]), integer(environ, SLURM[1])
    if not nodes or size is None:
        return None
    local_size = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    return Stated(
        "SLURM",
        SLURM,
        _slurm_coordinator(environ, nodes),
        size,
        integer(environ, SLURM[2]),
        integer(environ, "SLURM_LOCALID"),
        # As in "8(x4)": where nodes differ, those of the first.
        int(found[0]) if (found := re.match(r"\d+", local_size)) else None,
    )


def _slurm_coordinator(environ: Environment, nodes: str) -> str | None:
    """The first node, and a port that the job's number gives: jobs on one node do not meet."""
    job = integer(environ, "SLURM_JOB_ID") or 0
    return address(first_node(nodes), str(2**16 - EPHEMERAL_PORTS + job % EPHEMERAL_PORTS))


def first_node(nodes: str) -> str:
    """The first of SLURM's list of nodes.

    >>> first_node("gpu[003-007,012],login1"), first_node("node1,node2")
    ('gpu003', 'node1')
    """
    found = re.match(r"([^,\[]+)(?:\[([^,\-\]]+)[^\]]*\])?([^,\[]*)", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes


def open_mpi(environ: Environment) -> Stated | None:
    """A process of Open MPI's `mpirun`, which itself runs on the first node."""
    names = ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
    found = re.search(r"tcp6?://(\[[^,\]]+|[^,:]+)", environ.get(OPEN_MPI[0], ""))
    host = address(found[1].lstrip("[")) if found else None
    return _mpi("Open MPI", OPEN_MPI, names, environ, host)


def pmi(environ: Environment) -> Stated | None:
    """A process of another MPI: MPICH, Intel MPI, MVAPICH."""
    return _mpi("PMI", PMI, ("MPI_LOCALRANKID", "MPI_LOCALNRANKS"), environ, None)


def _mpi(
    name: str,
    names: tuple[str, str, str],
    local_names: tuple[str, str],
    environ: Environment,
    coordinator: str | None,
) -> Stated | None:
    """Where MPI does not say where to meet, SLURM may; processes of one machine meet on it."""
    size = integer(environ, names[1])
    if size is None:
        return None
    rank, local_rank, local_size = (integer(environ, n) for n in (names[2], *local_names))
    if local_size == size:
        coordinator = f"127.0.0.1:{PORT}"
    elif coordinator is None and (nodes := environ.get("SLURM_JOB_NODELIST")):
        coordinator = _slurm_coordinator(environ, nodes)
    return Stated(name, names, coordinator, size, rank, local_rank, local_size)


def indexed_job(environ: Environment) -> Stated | None:
    """A pod of an indexed Job, as JobSet makes them: its index is the rank."""
    if (index := integer(environ, INDEXED_JOB[2])) is None:
        return None
    if not environ.get(INDEXED_JOB[1]):  # an index alone is no group
        return None
    return Stated("Kubernetes", INDEXED_JOB, process_id=index)


# `mpirun` starts its processes from tasks of SLURM, so it comes first.
SCHEDULERS: tuple[Callable[[Environment], Stated | None], ...] = (open_mpi, pmi, slurm, indexed_job)
