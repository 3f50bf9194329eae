"""What TensorFlow and PyTorch share, which train in one process here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import keras

from kgpt.errors import UsageError
from kgpt.launch.process_group import ProcessGroup
from kgpt.launch.store import KeyValueStore

Result = TypeVar("Result")


def join(group: ProcessGroup) -> KeyValueStore:
    """Raise `UsageError`."""
    raise UsageError(
        f"On {keras.backend.backend()} kgpt trains in one process, not in {group.num_processes}; "
        "set KERAS_BACKEND=jax for them. A run may be resumed on another backend."
    )


def leave() -> None:
    """Do nothing."""


def is_lost_process(error: BaseException) -> bool:
    """False: there is one process."""
    return False


def device_count() -> int:
    """1: a model is on one device."""
    return 1


def batch_part() -> tuple[int, int]:
    """(0, 1): this process makes all of a batch."""
    return 0, 1


def computed_by_one(model: keras.Model, compute: Callable[[keras.Model], Result]) -> Result | None:
    """What `compute(model)` returns."""
    return compute(model)
