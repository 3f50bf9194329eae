"""`kgpt launch`: run a command in many processes that train one model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from kgpt.cli.options import StrictInt
from kgpt.errors import UsageError
from kgpt.launch.commands import group_commands
from kgpt.launch.launcher import launch as run_group
from kgpt.launch.ray import launch_with_ray
from kgpt.runs import new_run


def launch(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    processes: StrictInt = 1,
    nodes: str | None = None,
    port: StrictInt | None = None,
    ray: Annotated[bool, Parameter(negative="")] = False,
    gpus: Annotated[StrictInt, Parameter(validator=Number(gte=0))] = 0,
    max_failures: Annotated[StrictInt, Parameter(validator=Number(gte=0))] = 0,
) -> int:
    """Run `kgpt COMMAND` in many processes, which train one model together.

    Each line that they print has the rank of its process before it. When one fails, all are
    stopped. Ctrl-C saves and stops; the exit code is 130 then, and that of the process that failed
    otherwise.

    Parameters
    ----------
    command
        What to run, after `--`: `kgpt launch --processes 2 -- train small --data DIR`.
    processes
        Processes on each node, or on this machine if no nodes are named. One process drives all
        GPUs of its machine; of several, each has one.
    nodes
        Machines to reach by ssh, as in node1,node2: without a password, and with this folder and
        this Python at the same paths.
    port
        Where process 0 listens: 29500 on the first node, or a free port of this machine.
    ray
        Run the processes in a Ray cluster, as workers of Ray Train's JaxTrainer: in that of
        RAY_ADDRESS, or in one on this machine (extra `ray`).
    gpus
        With --ray: GPUs of each process.
    max_failures
        With --ray: how often all are started again, with --resume, after one has failed.
    """
    if not command:
        raise UsageError("Name what to run, as in `kgpt launch --processes 2 -- train small`.")
    if ray:
        if nodes is not None or port is not None:
            raise UsageError("--ray places the processes itself; leave --nodes and --port out.")
        return launch_with_ray(command, processes, is_taken, gpus, max_failures)
    if gpus or max_failures:
        raise UsageError("--gpus and --max-failures are options of --ray.")
    names = [name.strip() for name in nodes.split(",")] if nodes is not None else []
    return run_group(group_commands(command, processes, names, port))


def is_taken(name: str) -> bool:
    """Whether a run of this name is there already."""
    return new_run(name).is_taken
