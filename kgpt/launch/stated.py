"""What one launcher or scheduler states of a process group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from kgpt.errors import UsageError

PORT = 29500  # where none is stated: that of torchrun and of Kubeflow Trainer


@dataclass(frozen=True)
class Stated:
    """Parts of a `ProcessGroup`; None is not stated.

    Attributes:
        name: who states it, for errors.
        names: of the variables or flags of coordinator, size and rank, for errors.
    """

    name: str
    names: tuple[str, str, str]
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_process_id: int | None = None
    local_num_processes: int | None = None

    def filled_from(self, other: Stated) -> Stated:
        """With the values of `other` where this one has none, and their names."""
        fields = ("coordinator", "num_processes", "process_id")
        missing = [getattr(self, f) is None and getattr(other, f) is not None for f in fields]
        first = all(getattr(self, f) is None for f in fields) and any(missing)
        taken = [other if first or is_missing else self for is_missing in missing]
        takes_rank = missing[2]  # the local rank comes from who states the rank
        return replace(
            self,
            name=other.name if any(missing[1:]) else self.name,
            names=(taken[0].names[0], taken[1].names[1], taken[2].names[2]),
            coordinator=self.coordinator or other.coordinator,
            num_processes=other.num_processes if missing[1] else self.num_processes,
            process_id=other.process_id if takes_rank else self.process_id,
            local_process_id=other.local_process_id if takes_rank else self.local_process_id,
            local_num_processes=(
                other.local_num_processes if takes_rank else self.local_num_processes
            ),
        )


def address(text: str | None, port: str | None = None) -> str | None:
    """HOST:PORT of `text`, which may lack the port or, as an IPv6 address, the brackets.

    Raises `UsageError` if it is not an address.

    >>> address("node1"), address("10.0.0.1:8476"), address("::1", "12")
    ('node1:29500', '10.0.0.1:8476', '[::1]:12')
    """
    if not text:
        return None
    text = text.strip()
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]") or (":" in host and not host.endswith("]")):
        host, number = text, port or str(PORT)
    if not host or not number.isdecimal() or not 0 < int(number) < 2**16 or " " in host:
        raise UsageError(f"{text!r} is no address; give HOST:PORT.")
    return f"[{host}]:{number}" if ":" in host and not host.startswith("[") else f"{host}:{number}"


def integer(environ: Mapping[str, str], name: str) -> int | None:
    """The value of a variable; None if it is not set.

    Raises `UsageError` if it is not a number.
    """
    value = environ.get(name, "").strip()
    if not value:
        return None
    if not value.isdecimal():
        raise UsageError(f"{name} is {value!r}; it should be a number.")
    return int(value)
