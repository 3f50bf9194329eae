"""The key-value store that the processes of a group share: JAX's coordinator has one."""

from __future__ import annotations

from typing import Protocol

from kgpt.errors import KgptError

ADVICE = "its own output says why; a run goes on with --resume"


class ProcessLost(KgptError):
    """A process of the group does not answer, so that no step can be made."""


class KeyValueStore(Protocol):
    """Strings by key, seen by all processes. Any call raises `ProcessLost` without coordinator."""

    def set(self, key: str, value: str) -> None:
        """Set a value, also one that is set."""

    def get(self, key: str, timeout_s: float) -> str | None:
        """Wait for a value; None if it is not set in time."""

    def entries(self, prefix: str) -> dict[str, str]:
        """All values whose key begins with `prefix`, which ends with a slash."""

    def delete(self, key: str) -> None:
        """Delete a value."""
