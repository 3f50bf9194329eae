"""What JAX and TensorFlow share, because they compile a training step as a whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

Function = Callable[..., Any]


def compiles_regions(jit_compile: bool | str) -> bool:
    """False: `compile(jit_compile=...)` compiles the step as a whole."""
    return False


def compile_regions(functions: Sequence[Function], variables: Any = ()) -> list[Function]:
    """`functions` unchanged: they are compiled with the step."""
    return list(functions)


def prepack_int8(q: Any, scale: Any, store: Function) -> None:
    """XLA has no packed weight format."""


def constant(array: np.ndarray) -> np.ndarray:
    """`array` unchanged: a constant of the compiled step."""
    return array


def without_gradient(function: Function) -> Function:
    """`function`, its outputs being constants for the gradient: XLA drops what only it needs."""

    def call(*args: Any) -> Any:
        return keras.tree.map_structure(keras.ops.stop_gradient, function(*args))

    return call


def split(x: Any, sizes: Sequence[int], axis: int) -> list[Any]:
    """Consecutive parts of x with these sizes along `axis`; XLA fuses slices and gradients."""
    ends = list(itertools.accumulate(sizes))
    before = (slice(None),) * axis
    return [x[(*before, slice(end - size, end))] for end, size in zip(ends, sizes, strict=True)]
