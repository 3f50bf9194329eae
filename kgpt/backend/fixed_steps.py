"""Steps repeated by compiled programs whose trip counts are constants: for XLA on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops

STEP_COUNTS = (16, 1)  # of the programs, largest first

Tensors = Any  # a nested structure
Step = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]


class FixedSteps:
    """`step(params, state, cache)` -> (state, cache), as often as asked.

    A program of one step and one of `STEP_COUNTS[0]` make up any number. The host waits for no
    condition: the calls are queued, and the next thing that reads a result waits for all.

    Args:
        jit: `backend.jit`.
        step: pure, of fixed shapes. variables: what it reads beside its arguments.
    """

    def __init__(self, jit: Any, step: Step, variables: list[keras.Variable]) -> None:
        def repeated(count: int) -> Any:
            def run(params: Tensors, state: Tensors, cache: Tensors) -> tuple[Tensors, Tensors]:
                if count == 1:
                    return step(params, state, cache)
                start = (state, cache)
                return ops.fori_loop(0, count, lambda _, carry: step(params, *carry), start)

            return jit(run, variables, donated=(1, 2))

        self._programs = {count: repeated(count) for count in STEP_COUNTS}

    def __call__(
        self, params: Tensors, state: Tensors, cache: Tensors, num_steps: int
    ) -> tuple[Tensors, Tensors]:
        for count in split_steps(num_steps):
            state, cache = self._programs[count](params, state, cache)
        return state, cache

    def compilations(self) -> int:
        """How many programs have been compiled so far."""
        return sum(program.compilations() for program in self._programs.values())


def split_steps(num_steps: int) -> Iterator[int]:
    """The step counts of the programs that make up `num_steps`.

    >>> list(split_steps(18))
    [16, 1, 1]
    """
    for count in STEP_COUNTS:
        yield from [count] * (num_steps // count)
        num_steps %= count
