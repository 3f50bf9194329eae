"""PyTorch: functions without gradients, run as they are, as FX graphs, or as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import torch
import torch.utils._pytree as pytree
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from kgpt.backend.torch_cuda_graph import GraphedSteps, default_recorder
from kgpt.backend.torch_fx_passes import quick
from kgpt.backend.torch_transfer import to_device

Function = Callable[..., Any]


def jit(
    function: Function, variables: Iterable[keras.Variable] = (), donated: Iterable[int] = ()
) -> Any:
    """`function(*tensors)` without gradients; eager torch has nothing to compile."""

    def call(*args: Any) -> Any:
        with torch.inference_mode():
            return function(*to_device(args))

    call.compilations = lambda: 0
    return call


def jit_steps(step: Function, variables: Iterable[keras.Variable] = ()) -> Any:
    """`function(params, state, cache, num_steps)`: `step(params, state, cache)` repeated.

    On CUDA a graph of one step is replayed; see `GraphedSteps`.
    """
    steps = GraphedSteps(step, list(variables), default_recorder())

    def call(params: Any, state: Any, cache: Any, num_steps: int) -> Any:
        with torch.inference_mode():
            params, state, cache = to_device((params, state, cache))
            return steps(params, state, cache, num_steps)

    call.compilations = steps.compilations
    return call


def fx_trace(function: Function) -> Any:
    """`function(*tensors)` traced with `make_fx` at its second call for a shape, and then replayed.

    Saves the Python overhead of its layers, a quarter of a decode step of GPT-2 on CPU. The first
    call does not wait for the trace, nor for the import of the compiler, a second in all. The
    function must need no gradients, have shapes that do not depend on values, and not convert its
    tensors to NumPy: the result would become a constant of the trace.
    """
    met: set[Any] = set()
    graphs: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        if get_proxy_mode() is not None:  # inside another trace
            return function(*args)
        leaves, structure = pytree.tree_flatten(args)
        shapes = tuple((x.shape, x.dtype) for x in leaves)
        if shapes not in met:
            met.add(shapes)
            return function(*args)
        if shapes not in graphs:
            flat = lambda *leaves: function(*pytree.tree_unflatten(leaves, structure))  # noqa: E731
            graphs[shapes] = quick(make_fx(flat)(*leaves))
        return graphs[shapes](*leaves)

    call.compilations = lambda: len(met)
    return call
