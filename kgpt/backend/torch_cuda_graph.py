"""A step captured as a CUDA graph and replayed: one launch in place of hundreds."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.utils._pytree as pytree
from torch.fx.experimental.proxy_tensor import make_fx

from kgpt.backend import keras_internals

MAX_GRAPHS = 32  # the least recently used beyond it are freed
WARM_UP_RUNS = 2  # before a capture, so that libraries have made their workspaces

Tensor = torch.Tensor
Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Action = Callable[[], None]


class Recorder(Protocol):
    """How a function without arguments, on tensors of fixed addresses, is recorded."""

    def capture(self, function: Action, reset: Action) -> Action:
        """What replays `function`; `reset` restores what an earlier run of it has changed."""


class CudaGraphRecorder:
    """Records CUDA graphs; all allocate from one memory pool, because none run at once."""

    def __init__(self) -> None:
        self._pool: Any = None

    def capture(self, function: Action, reset: Action) -> Action:
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                reset()
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(graph, pool=self._pool):
            function()
        return graph.replay


def default_recorder() -> Recorder | None:
    """CUDA graphs where there is CUDA."""
    return CudaGraphRecorder() if torch.cuda.is_available() else None


class _RecordedStep(NamedTuple):
    """A recorded step, on a cache that it does not keep alive."""

    static: list[Tensor]  # its own copies of params and state
    replay: Action


class GraphedSteps:
    """`step(params, state, cache)` -> (state, cache), as often as asked, without gradients.

    The step is traced once for its shapes to an FX graph, in which constants are tensors on the
    device, and recorded once for the addresses of its cache. It updates the cache in place, and
    copies of `params` and `state` at addresses of its own. The host reads nothing.

    Args:
        step: of fixed shapes; must not depend on values, nor convert its tensors to NumPy.
        variables: the model's; where one is replaced, all is traced anew.
        recorder: None runs the FX graph itself, for devices without CUDA graphs.
    """

    def __init__(self, step: Step, variables: Sequence[Any], recorder: Recorder | None) -> None:
        self._step, self._variables, self._recorder = step, list(variables), recorder
        self._weights: tuple[int, ...] = ()  # addresses
        self._traced: dict[Any, Callable[..., list[Tensor]]] = {}
        self._recorded: OrderedDict[Any, _RecordedStep] = OrderedDict()

    def __call__(self, params: Any, state: Any, cache: Any, num_steps: int) -> tuple[Any, Any]:
        """`state` and `cache` are overwritten with the result, and returned."""
        parts, specs = zip(*map(pytree.tree_flatten, (params, state, cache)), strict=True)
        constants, carry, caches = parts
        shapes = tuple((x.shape, x.stride(), x.dtype, x.device) for part in parts for x in part)
        traced = self._trace(shapes, parts, specs)
        if self._recorder is None:
            for _ in range(num_steps):
                copy_all(carry, traced(*constants, *carry, *caches)[: len(carry)])
            return state, cache
        key = (shapes, tuple(x.data_ptr() for x in caches))
        if key not in self._recorded:
            self._recorded[key] = _record(self._recorder, traced, *parts)
        self._recorded.move_to_end(key)
        if len(self._recorded) > MAX_GRAPHS:
            self._recorded.popitem(last=False)
        recorded = self._recorded[key]
        copy_all(recorded.static, [*constants, *carry])
        for _ in range(num_steps):
            recorded.replay()
        copy_all(carry, recorded.static[len(constants) :])
        return state, cache

    def compilations(self) -> int:
        """How many FX graphs have been traced so far."""
        return len(self._traced)

    def _trace(self, shapes: Any, parts: Any, specs: Any) -> Callable[..., list[Tensor]]:
        """The FX graph for these shapes and the weights where they are now."""
        weights = tuple(keras_internals.stored(variable).data_ptr() for variable in self._variables)
        if weights != self._weights:
            self._traced, self._recorded, self._weights = {}, OrderedDict(), weights
        if shapes not in self._traced:
            # Tracing runs the step, which writes to the cache what the next run writes again.
            self._traced[shapes] = _traced(self._step, parts, specs)
        return self._traced[shapes]


def _record(
    recorder: Recorder,
    traced: Callable[..., list[Tensor]],
    params: list[Tensor],
    state: list[Tensor],
    cache: list[Tensor],
) -> _RecordedStep:
    """Record `traced` on copies of `params` and `state`, and on `cache` itself.

    Running it again from the same state writes the same to the cache.
    """
    given = [*params, *state]
    static = [x.clone() for x in given]
    carry = static[len(params) :]

    def advance() -> None:
        copy_all(carry, traced(*static, *cache)[: len(carry)])

    return _RecordedStep(static, recorder.capture(advance, lambda: copy_all(static, given)))


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in one launch a dtype; nothing where both are one."""
    by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for target, source in zip(targets, sources, strict=True):
        if target.data_ptr() != source.data_ptr():
            by_dtype[target.dtype][0].append(target)
            by_dtype[target.dtype][1].append(source)
    for to, values in by_dtype.values():
        torch._foreach_copy_(to, values)


def _traced(
    step: Step, leaves: list[list[Tensor]], specs: list[Any]
) -> Callable[..., list[Tensor]]:
    """`step` as a function from flat tensors to those of the state, then of the cache."""
    sizes = [len(part) for part in leaves]

    def flat(*tensors: Tensor) -> list[Tensor]:
        args, start = [], 0
        for size, spec in zip(sizes, specs, strict=True):
            args.append(pytree.tree_unflatten(list(tensors[start : start + size]), spec))
            start += size
        state, cache = step(*args)
        return [*pytree.tree_leaves(state), *pytree.tree_leaves(cache)]

    traced: Callable[..., list[Tensor]] = make_fx(flat)(*(x for part in leaves for x in part))
    return traced
