"""What TensorFlow and PyTorch share, which compute on one device here: nothing is sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kgpt.config.distribute import Axes, DistributeConfig
from kgpt.errors import UsageError

Tensor = Any


def distribute(config: DistributeConfig) -> None:
    """Do nothing; raise `UsageError` for more than one device."""
    if config.num_devices > 1:
        raise UsageError(
            f"On {keras.backend.backend()} kgpt trains on one device; set KERAS_BACKEND=jax for "
            f"distribute.data {config.data} and distribute.model {config.model}. A run may be "
            "resumed on another backend."
        )


def batch_shards() -> int:
    """1: a batch is not divided."""
    return 1


def constrain(x: Tensor, axes: Axes) -> Tensor:
    """x."""
    return x


def constrain_stream(x: Tensor) -> Tensor:
    """x."""
    return x


def gather_parameter(variable: keras.Variable) -> Tensor:
    """The variable."""
    return variable


def with_gathered(
    function: Callable[..., Tensor], variable: keras.Variable, *inputs: Tensor
) -> Tensor:
    """`function(variable, *inputs)`."""
    return function(variable, *inputs)


def place_shards(read: Callable[[Any], np.ndarray], shape: tuple[int, ...], layout: Any) -> Tensor:
    """The whole array, as a tensor."""
    return keras.ops.convert_to_tensor(read(...))


def assign_shards(variable: keras.Variable, value: np.ndarray) -> None:
    """Assign an array of host memory."""
    variable.assign(value)


def process_index() -> int:
    """0: there is one process."""
    return 0


def process_count() -> int:
    """1: there is one process."""
    return 1


def is_primary() -> bool:
    """True: there is one process."""
    return True


def gather(value: Tensor) -> Tensor:
    """The tensor as it is."""
    return value
