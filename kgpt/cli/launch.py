"""`kgpt launch`: run a command in many processes that train one model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from kgpt.errors import UsageError
from kgpt.launch.commands import group_commands
from kgpt.launch.launcher import launch as run_group


def launch(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    processes: int = 1,
    nodes: str | None = None,
    port: int | None = None,
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
    """
    if not command:
        raise UsageError("Name what to run, as in `kgpt launch --processes 2 -- train small`.")
    names = [name.strip() for name in nodes.split(",")] if nodes is not None else []
    return run_group(group_commands(command, processes, names, port))
