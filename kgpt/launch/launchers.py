"""What launchers state of a process group in environment variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from kgpt.errors import UsageError
from kgpt.launch.stated import Stated, address, integer

KERAS = (
    "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "KERAS_DISTRIBUTION_PROCESS_ID",
)
JAX = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
JAXJOB = ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")
TORCHRUN = ("MASTER_ADDR", "WORLD_SIZE", "RANK")

Environment = Mapping[str, str]


def keras(environ: Environment) -> Stated | None:
    """Keras: the addresses of all processes, or that of the first."""
    addresses = [one for one in environ.get(KERAS[0], "").split(",") if one.strip()]
    size, rank = integer(environ, KERAS[1]), integer(environ, KERAS[2])
    if len(addresses) > 1 and size not in (None, len(addresses)):
        raise UsageError(f"{KERAS[0]} has {len(addresses)} addresses, but {KERAS[1]} is {size}.")
    if len(addresses) > 1:
        size = len(addresses)
    coordinator = address(addresses[0]) if addresses else None
    return Stated("Keras", KERAS, coordinator, size, rank)


def jax(environ: Environment) -> Stated | None:
    """JAX's own variables, which Kubeflow Trainer sets, too; the local rank is `kgpt launch`'s."""
    coordinator = address(environ.get(JAX[0]), environ.get("JAX_COORDINATOR_PORT"))
    return Stated("JAX", JAX, coordinator, integer(environ, JAX[1]), integer(environ, JAX[2]))


def jaxjob(environ: Environment) -> Stated | None:
    """Kubeflow's JAXJob; its names are common words, so all of them must be set."""
    if not all(environ.get(name) for name in JAXJOB):
        return None
    coordinator = address(environ[JAXJOB[0]], environ.get("COORDINATOR_PORT"))
    size, rank = integer(environ, JAXJOB[1]), integer(environ, JAXJOB[2])
    return Stated("JAXJob", JAXJOB, coordinator, size, rank)


def tf_config(environ: Environment) -> Stated | None:
    """TF_CONFIG: the chief, if there is one, and then the workers."""
    text = environ.get("TF_CONFIG", "").strip()
    if not text:
        return None
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        roles = [
            (role, i) for role in ("chief", "worker") for i in range(len(cluster.get(role, ())))
        ]
        addresses = [cluster[role][i] for role, i in roles]
        mine = (task.get("type"), int(task.get("index", 0)))
    except (ValueError, AttributeError, TypeError, KeyError):
        raise UsageError("TF_CONFIG is not the JSON that TensorFlow reads.") from None
    if not roles:
        return None
    if mine not in roles:
        raise UsageError(
            f"TF_CONFIG makes this process {mine[0]} {mine[1]}; only chief and workers train."
        )
    names = ("TF_CONFIG's cluster", "TF_CONFIG's cluster", "TF_CONFIG's task")
    return Stated("TF_CONFIG", names, address(addresses[0]), len(roles), roles.index(mine))


def torchrun(environ: Environment) -> Stated | None:
    """torchrun; without WORLD_SIZE, only where to meet, as scripts of SLURM set it."""
    coordinator = address(environ.get(TORCHRUN[0]), environ.get("MASTER_PORT"))
    size = integer(environ, TORCHRUN[1])
    if size is None:
        return Stated("torchrun", TORCHRUN, coordinator)
    ranks = (integer(environ, "LOCAL_RANK"), integer(environ, "LOCAL_WORLD_SIZE"))
    return Stated("torchrun", TORCHRUN, coordinator, size, integer(environ, TORCHRUN[2]), *ranks)


LAUNCHERS: tuple[Callable[[Environment], Stated | None], ...] = (
    keras,
    jax,
    jaxjob,
    tf_config,
    torchrun,
)
