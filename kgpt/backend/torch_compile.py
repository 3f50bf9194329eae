"""Parts of a training step compiled with `torch.compile`.

Keras compiles a whole step or nothing. A part is compiled much faster, without graph breaks, and
once for all that differ in their weights only, such as the blocks of a model.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import torch

from kgpt.backend import keras_internals
from kgpt.backend.torch_attention import attention_device

Tensor = Any
Function = Callable[..., Any]
Variables = Sequence[keras.Variable]

TORCH_BACKEND = "inductor"  # of torch.compile
MAX_REASON = 200  # characters of an error, which may be pages long
MAX_SHAPES = 8  # as many versions of a function does PyTorch keep
ARGUMENTS = re.compile(r"\b(values|args)\b")  # in the name of what a guard checks
_numbers = itertools.count()


def compiles_regions(jit_compile: bool | str) -> bool:
    """Does `compile(jit_compile=...)` compile regions? "auto": on a GPU for which Triton is there.

    On CPU eager products, by oneDNN, are as fast as compiled ones.
    """
    if jit_compile == "auto":
        return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
    return bool(jit_compile)


def compile_regions(
    functions: Sequence[Function], variables: Sequence[Variables] = ((),)
) -> list[Function]:
    """Functions of tensors, compiled once for all of them and once for each shape.

    Args:
        functions: they may differ only in the values of their variables, and must neither assign
            variables nor branch on the values of tensors.
        variables: those that each function reads, in the same order.
    """
    template = _Template(functions[0], list(variables[0]))
    return [
        _Region(function, list(own), template)
        for function, own in zip(functions, variables, strict=True)
    ]


class _Region:
    """`function(*args)`, compiled; eager where shapes are only inferred (device "meta")."""

    def __init__(self, function: Function, variables: list[Any], template: _Template) -> None:
        self.function, self.variables, self.template = function, variables, template

    def __call__(self, *args: Any) -> Any:
        if args[0].device.type == "meta" or not self.template.accepts(args):
            return self.function(*args)
        try:
            return self.template.run(
                [keras_internals.stored(variable) for variable in self.variables], args
            )
        except torch._dynamo.exc.TorchDynamoException as error:
            self.template.fail(error)
            return self.function(*args)


class _Template:
    """The compiled `run(values, args)`: `function(*args)` with `values` for `variables`."""

    def __init__(self, function: Function, variables: list[Any]) -> None:
        warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
        # Called while a function is compiled, not traced.
        torch.compiler.assume_constant_result(attention_device)
        self.shapes: set[Any] = set()
        self.failed = False

        def run(values: list[Tensor], args: tuple[Any, ...]) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return function(*args)

        # What torch.compile makes is kept with the code object: each template has its own.
        code = run.__code__.replace(co_name=f"region_{next(_numbers)}")
        own = types.FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)
        # Options to choose guards came with the function named here, in PyTorch 2.8.
        chosen = hasattr(torch.compiler, "keep_tensor_guards_unsafe")
        self.run = torch.compile(
            own,
            fullgraph=True,
            dynamic=False,
            backend=TORCH_BACKEND,
            options={"guard_filter_fn": _guards_of_arguments} if chosen else None,
        )

    def accepts(self, args: tuple[Any, ...]) -> bool:
        """False for a new shape when there are many, each of which is compiled."""
        shape = (torch.is_grad_enabled(), *(getattr(arg, "shape", arg) for arg in args))
        if shape not in self.shapes:
            if self.failed or len(self.shapes) == MAX_SHAPES:
                return False
            self.shapes.add(shape)
        return True

    def fail(self, error: Exception) -> None:
        """Compile no more, and say why."""
        self.shapes.clear()
        self.failed = True
        reason = " ".join(str(error).split())[:MAX_REASON]
        warnings.warn(f"torch.compile failed, so training is not compiled: {reason}", stacklevel=3)


def _guards_of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Which guards to check in each call: those on the arguments, and on grad mode and the like.

    The layers and Keras's own state, with thousands of guards, do not change after `compile`.
    """
    return [not guard.name or ARGUMENTS.search(guard.name) is not None for guard in guards]
