"""Count the copies between host and device, and how often the host waits for the device.

A CPU copies nothing and waits for nothing, but runs the same Python code as a GPU, so whatever
would be a copy or a wait there is counted here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import keras
import numpy as np

from kgpt import backend
from kgpt.generation.compiled import CompiledFunctions
from kgpt.model.gpt import GPT


@dataclass
class Transfers:
    """What was counted.

    Attributes:
        to_host: calls of `backend.to_host`: one copy each, and one wait.
        to_device: numpy arrays passed to `backend.to_device` or to compiled functions.
        calls: calls of compiled functions: at least one launch each.
        waits: every other place where the host reads a value from the device.
    """

    to_host: int = 0
    to_device: int = 0
    calls: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    _depth: int = 0  # of `backend.to_host`

    def wait(self, name: str) -> None:
        if not self._depth:
            self.waits[name] += 1

    def put(self, tree: Any) -> None:
        self.to_device += sum(isinstance(x, np.ndarray) for x in keras.tree.flatten(tree))


@contextlib.contextmanager
def count_transfers(model: GPT | None = None) -> Iterator[Transfers]:
    """Count from here on; calls of compiled functions only of `model`'s."""
    seen = Transfers()
    to_host, to_device = backend.to_host, backend.to_device

    def counted_to_host(tree: Any) -> Any:
        seen.to_host += 1
        seen._depth += 1
        try:
            return to_host(tree)
        finally:
            seen._depth -= 1

    def counted_to_device(tree: Any) -> Any:
        seen.put(tree)
        return to_device(tree)

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(backend, "to_host", counted_to_host))
        stack.enter_context(mock.patch.object(backend, "to_device", counted_to_device))
        for owner, name, function in compiled_functions(model):
            counted = counted_call(seen, function)
            stack.enter_context(mock.patch.object(owner, name, counted))
        stack.enter_context(WAITS[backend.name](seen))
        yield seen


def compiled_functions(model: GPT | None) -> Iterator[tuple[Any, str, Any]]:
    """(object, attribute, function) of whatever a model's runners call."""
    if model is None:
        return
    compiled = CompiledFunctions.of(model)
    for owner in (compiled, *compiled.programs.values()):
        for name, value in list(vars(owner).items()):
            # The decode step is part of the others.
            if hasattr(value, "compilations") and callable(value) and "step" not in name:
                yield owner, name, value


def counted_call(seen: Transfers, function: Any) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        seen.calls += 1
        seen.put(args)
        return function(*args)

    call.compilations = function.compilations
    return call


@contextlib.contextmanager
def torch_waits(seen: Transfers) -> Iterator[None]:
    """On a GPU these operators wait until the value, or the shape of the result, is known."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2")

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if (name := func.overloadpacket.__name__) in waiting:
                seen.wait(name)
            return func(*args, **(kwargs or {}))

    to_list, to_numpy = torch.Tensor.tolist, torch.Tensor.numpy

    def counted_list(tensor: Any) -> Any:
        seen.wait("tolist")
        return to_list(tensor)

    def counted_numpy(tensor: Any, *args: Any, **options: Any) -> Any:
        seen.wait("numpy")
        return to_numpy(tensor, *args, **options)

    with (
        mock.patch.object(torch.Tensor, "tolist", counted_list),
        mock.patch.object(torch.Tensor, "numpy", counted_numpy),
        Counting(),
    ):
        yield


@contextlib.contextmanager
def jax_waits(seen: Transfers) -> Iterator[None]:
    """`float`, `bool` and `tolist` read `_value`; not `numpy.array`, which copies in C."""
    import jax.numpy as jnp

    cls = type(jnp.zeros(1))
    read = cls._value

    def counted(array: Any) -> Any:
        seen.wait("_value")
        return read.fget(array)

    with mock.patch.object(cls, "_value", property(counted)):
        yield


@contextlib.contextmanager
def tensorflow_waits(seen: Transfers) -> Iterator[None]:
    """`float`, `bool` and `numpy` read `_numpy`; not `numpy.array`, which copies in C."""
    import tensorflow as tf

    cls = next(c for c in type(tf.zeros(1)).__mro__ if "_numpy" in vars(c))
    read = cls._numpy

    def counted(tensor: Any) -> Any:
        seen.wait("_numpy")
        return read(tensor)

    with mock.patch.object(cls, "_numpy", counted):
        yield


WAITS = {"torch": torch_waits, "jax": jax_waits, "tensorflow": tensorflow_waits}
