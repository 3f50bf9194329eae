"""The command line of each process of a group, on this machine or on another by ssh."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kgpt.errors import UsageError
from kgpt.launch.launchers import KERAS
from kgpt.launch.stated import PORT, address

# What a process on another machine is given of this one's environment.
PASSED_ON = ("KERAS_", "KGPT_", "JAX_", "XLA_", "TF_", "NCCL_", "OMP_", "HF_", "GLIBC_TUNABLES")
LOCAL_DEVICES = "JAX_LOCAL_DEVICE_IDS"

# Standard input ends when the launcher closes it, and when the connection is lost: the process is
# then asked to save and stop, and killed if it does not. Shells let a process in the background
# ignore SIGINT.
STOPPED_WITH_STDIN = (
    "exec 3<&0; {command} </dev/null & child=$!; "
    "(cat <&3 >/dev/null; kill -TERM $child; sleep {timeout}; kill -KILL $child) >/dev/null 2>&1 & "
    "watcher=$!; wait $child; code=$?; kill $watcher 2>/dev/null; exit $code"
)


@dataclass(frozen=True)
class Command:
    """One process of a group.

    Attributes:
        process_id: its rank.
        node: the machine it runs on; None for this one.
        argv: what is executed on this machine.
        environ: its environment, of ssh if it runs elsewhere.
    """

    process_id: int
    node: str | None
    argv: Sequence[str]
    environ: Mapping[str, str]

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"process {self.process_id}" + (f" on {self.node}" if self.node else "")


def group_commands(
    arguments: Sequence[str],
    processes: int,
    nodes: Sequence[str] = (),
    port: int | None = None,
    stop_timeout_s: float = 60,
) -> list[Command]:
    """The commands of all processes that run `kgpt ARGUMENTS`, in order of rank.

    Args:
        arguments: what follows `kgpt`, such as `["train", "small", "--data", "d"]`.
        processes: on each node, or on this machine.
        nodes: host names for ssh; none for this machine.
        port: where process 0 listens; a free one of this machine, or 29500 of the first node.
        stop_timeout_s: for a process on another machine to save and stop, before it is killed.

    Raises:
        UsageError: a name or number is impossible.
    """
    if processes < 1:
        raise UsageError(f"--processes should be 1 or more, not {processes}.")
    if any(not node or node.startswith("-") or " " in node for node in nodes):
        raise UsageError("--nodes should be host names, as in --nodes node1,node2.")
    host = nodes[0].rpartition("@")[2] if nodes else "127.0.0.1"
    coordinator = address(host, str(port or (PORT if nodes else free_port())))
    size = processes * max(1, len(nodes))
    commands = []
    for rank in range(size):
        values = (coordinator or "", str(size), str(rank))
        variables = dict(zip(KERAS, values, strict=True))
        if processes > 1 and LOCAL_DEVICES not in os.environ:
            variables[LOCAL_DEVICES] = str(rank % processes)
        node = nodes[rank // processes] if nodes else None
        commands.append(_command(rank, node, arguments, variables, stop_timeout_s))
    return commands


def _command(
    rank: int,
    node: str | None,
    arguments: Sequence[str],
    variables: dict[str, str],
    stop_timeout_s: float,
) -> Command:
    argv = [sys.executable, "-m", "kgpt", *arguments]
    if node is None:
        return Command(rank, None, argv, os.environ | variables)
    passed_on = {k: v for k, v in os.environ.items() if k.startswith(PASSED_ON)} | variables
    words = ["env", *(f"{name}={value}" for name, value in passed_on.items()), *argv]
    script = STOPPED_WITH_STDIN.format(command=shlex.join(words), timeout=stop_timeout_s)
    remote = f"cd {shlex.quote(os.getcwd())} && exec sh -c {shlex.quote(script)}"
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=5", node, remote]
    return Command(rank, node, ssh, os.environ)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
