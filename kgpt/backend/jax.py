"""JAX: XLA everywhere, cuDNN attention on GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

from kgpt.backend import jax_distribution, jax_processes, keras_internals, quantized, xla_int4
from kgpt.backend.fixed_steps import FixedSteps
from kgpt.backend.jax_attention import causal_attention as causal_attention
from kgpt.backend.jax_device import device_memory as device_memory
from kgpt.backend.jax_device import limit_memory as limit_memory
from kgpt.backend.jax_device import set_precision as set_precision
from kgpt.backend.kv_attention import cached_attention as xla_cached_attention
from kgpt.backend.optimizer import optimizer_class as optimizer_class
from kgpt.backend.process_memory import peak_resident_bytes
from kgpt.backend.whole_step import compile_regions as compile_regions
from kgpt.backend.whole_step import compiles_regions as compiles_regions
from kgpt.backend.whole_step import constant as constant
from kgpt.backend.whole_step import prepack_int8 as prepack_int8
from kgpt.backend.whole_step import split as split
from kgpt.backend.whole_step import without_gradient as without_gradient

Tensor = Any
Function = Callable[..., Any]

remat = jax.checkpoint
custom_gradient = jax.custom_gradient
cond = ops.cond
device_scope = keras.device
distribution = jax_distribution
processes = jax_processes
JIT_TRAINING = True  # the default of `compile(jit_compile=...)`
MIN_INT8_ROWS = 2
MANY_ROWS = 32  # from here on XLA:CPU is faster with the weight as right operand
GELU_SCALE = 1.5957691216057308  # 2 * sqrt(2 / pi)
# JAX annotates neither.
_optimization_barrier: Function = jax.lax.optimization_barrier
_block_until_ready: Function = jax.block_until_ready


def dense(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times kernel (D, F), plus bias (F,).

    Flattened first: XLA on CPU is a third faster in 2-D.
    """
    kernel = ops.convert_to_tensor(kernel)
    flat = jnp.reshape(x, (-1, x.shape[-1]))
    out = jnp.reshape(flat @ kernel, (*x.shape[:-1], kernel.shape[-1]))
    return out if bias is None else out + ops.convert_to_tensor(bias)


def int8_matmul(x: Tensor, q: Tensor) -> Tensor:
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F).

    Pad M=1 to 2: XLA:CPU's int8 GEMM is about 10x slower for one row.
    """
    rows = x.shape[0]
    x = jnp.pad(x, ((0, max(0, MIN_INT8_ROWS - rows)), (0, 0)))
    return matmul_nt(x, q, jnp.int32)[:rows]


int8_linear = partial(quantized.int8_linear, int8_matmul)
int4_linear = partial(quantized.int4_linear, dense)


def prepack_int4(q: Tensor, scale: Tensor, store: Function) -> Function | None:
    """The product with an int4 weight in the layout of `xla_int4`; None on a GPU."""
    if not prefers_transposed_weights():
        return None
    return xla_int4.prepack_int4(int8_matmul, q, scale, store)


def matmul_nt(x: Tensor, w: Tensor, dtype: Any = None) -> Tensor:
    """x (M, D) times the transpose of w (F, D).

    For few rows about 2x faster on XLA:CPU with the weight as left operand; the barrier stops XLA
    swapping it back. For many rows about 1.3x slower.
    """
    contracted = (((1,), (1,)), ((), ()))
    if x.shape[0] >= MANY_ROWS:
        return jax.lax.dot_general(x, w, contracted, preferred_element_type=dtype)
    out = jax.lax.dot_general(w, x, contracted, preferred_element_type=dtype)  # (F, M)
    return _optimization_barrier(out).T


def prepack_weight(matrix: Tensor) -> None:
    """XLA has no packed weight format."""


def prefers_transposed_weights() -> bool:
    """True on CPU; GPUs multiply by either layout at the same speed."""
    return jax.default_backend() == "cpu"


def transpose_weights_inplace(variables: Iterable[keras.Variable]) -> None:
    """Do nothing: XLA decides the layout of variables itself."""


def refresh_tracking(layer: keras.Layer) -> None:
    """Do nothing: layers keep no second record of their child layers' variables."""


def cache_indices(start: Tensor, count: Tensor, length: Any, cache_len: Any) -> Any:
    """The cache position of each new token (B, T); `cache_len`, one past the end, for padding."""
    steps = jnp.arange(length)
    return jnp.where(steps < count[:, None], (start[:, None] + steps) % cache_len, cache_len)


def update_cache(cache: Tensor, new: Tensor, indices: Any) -> Tensor:
    """A cache (B, K, S, H) with new (B, K, T, H) written; indices past the end are dropped.

    A `where` over all S positions would make XLA recompute the rotary embedding of the new keys at
    each. XLA rewrites a scatter of one token into such a `where` and copies the whole cache; a
    second, dropped index makes it update in place. bfloat16 is written as integers: XLA on a CPU
    would convert the whole cache.
    """
    if cache.dtype == jnp.bfloat16:
        integers = update_cache(cache.view(jnp.uint16), new.view(jnp.uint16), indices)
        return integers.view(jnp.bfloat16)
    rows = jnp.arange(cache.shape[0])[:, None]
    tokens = jnp.swapaxes(new, 1, 2)  # (B, T, K, H): the two indices come first
    if indices.size == 1:
        indices = jnp.pad(indices, ((0, 0), (0, 1)), constant_values=cache.shape[2])
        tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0), (0, 0)))
    return cache.at[rows, :, indices].set(tokens, mode="drop")


def cached_attention(
    query: Tensor, layer: tuple[Tensor, ...], mask: Tensor, filled: Tensor
) -> Tensor:
    """Attention of new tokens on one layer's cache; see `kgpt/backend/kv_attention.py`."""
    return xla_cached_attention(query, layer, mask, filled, on_cpu=not branches_on_host())


def slice_row(x: Tensor, row: Tensor) -> Tensor:
    """Row `row` of x (B, ...), as (1, ...)."""
    return jax.lax.dynamic_slice_in_dim(x, row, 1)


def update_row(x: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """x (B, ...) with `value` (1, ...) in place of one row."""
    return jax.lax.dynamic_update_slice_in_dim(x, value, row, 0)


def update_column(x: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """x (B, N, ...) with `value` (B, ...) in column `column`."""
    return x.at[:, column].set(value)


def occurs(ids: Tensor, size: int) -> Tensor:
    """Which of the numbers below `size` are in each row of ids (B, E): (B, size); -1 is none."""
    rows = jnp.arange(ids.shape[0])[:, None]
    columns = jnp.where(ids >= 0, ids, size)  # one past the end is dropped
    return jnp.zeros((ids.shape[0], size), bool).at[rows, columns].set(True, mode="drop")


def dropout(x: Tensor, rate: float, key: Tensor) -> Tensor:
    """Dropout whose mask is a function of `key`, two int32."""
    seed = jax.random.wrap_key_data(jax.lax.bitcast_convert_type(key, jnp.uint32))
    kept = jax.random.bernoulli(seed, 1.0 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """LayerNorm over the last axis, with statistics in float32."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + epsilon) * ops.convert_to_tensor(scale)
    return (y if bias is None else y + ops.convert_to_tensor(bias)).astype(x.dtype)


def rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last axis, with statistics in float32."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    scaled = x32 * jax.lax.rsqrt(mean_square + epsilon) * ops.convert_to_tensor(scale)
    return scaled.astype(x.dtype)


@jax.custom_vjp
def gelu_tanh(x: Tensor) -> Tensor:
    """x * sigmoid(2u), which equals 0.5x(1 + tanh u): XLA's exp is fast on CPU, its tanh is not."""
    return x * jax.nn.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))


def _gelu_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    return gelu_tanh(x), x


def _gelu_backward(x: Tensor, upstream: Tensor) -> tuple[Tensor]:
    gate = jax.nn.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))
    slope = GELU_SCALE * (1 + 3 * 0.044715 * x * x)
    return (upstream * (gate + x * gate * (1 - gate) * slope),)


gelu_tanh.defvjp(_gelu_forward, _gelu_backward)


def jit(
    function: Function, variables: Iterable[keras.Variable] = (), donated: Iterable[int] = ()
) -> Any:
    """`function(*tensors)`, jitted; it sees the current values of `variables`.

    The buffers of the arguments at the positions `donated` may be reused; do not read them after.
    """
    variables = list(variables)

    def run(values: list[Tensor], *args: Any) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args)

    run.__name__ = getattr(function, "__name__", "run")
    jitted = jax.jit(run, donate_argnums=tuple(1 + i for i in donated))

    def call(*args: Any) -> Any:
        return jitted([variable.value for variable in variables], *args)

    call.compilations = jitted._cache_size
    return call


def jit_steps(step: Function, variables: Iterable[keras.Variable] = ()) -> Any:
    """`function(params, state, cache, num_steps)`: `step(params, state, cache)` repeated."""
    return FixedSteps(jit, step, list(variables))


def branches_on_host() -> bool:
    """True on a GPU: XLA's `cond` and `while` read their conditions from the device."""
    return jax.default_backend() == "gpu"


def specializes_decoding() -> bool:
    """True on a GPU; a CPU has one program for all, because each takes seconds to compile."""
    return branches_on_host()


def fx_trace(function: Function) -> Any:
    """`function` unchanged: the enclosing function is compiled as a whole."""
    return function


def to_host(tree: Any) -> Any:
    """The tensors and variables of a nested structure as numpy arrays, once they are computed.

    All copies from a GPU are under way before the first is waited for. On CPU an array is a
    read-only view. `jax.device_get` takes 0.1 ms there for an array of any size.
    """
    if jax.default_backend() != "cpu":
        for leaf in keras.tree.flatten(tree):
            value = leaf.value if isinstance(leaf, keras.Variable) else leaf
            if isinstance(value, jax.Array):
                value.copy_to_host_async()
    return keras.tree.map_structure(np.asarray, tree)


def to_device(tree: Any) -> Any:
    """The numpy arrays of a nested structure as tensors; a compiled function takes either."""
    return keras.tree.map_structure(ops.convert_to_tensor, tree)


def prefetch(dataset: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """The data set itself: on a GPU Keras puts the next batch there while one is computed."""
    return dataset


def synchronize(tensor: Any) -> None:
    _block_until_ready(tensor)


def device() -> tuple[str, str]:
    """(platform, name): for example ("cpu", "cpu") or ("gpu", "NVIDIA H200")."""
    first = jax.local_devices()[0]
    return first.platform, first.device_kind


def peak_memory() -> int:
    """The most bytes of the device's memory in use so far; on a CPU, of the process's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats["peak_bytes_in_use"]) if stats else peak_resident_bytes()


def sync_model_state(model: keras.Model) -> None:
    model.jax_state_sync()


def read_optimizer_var(model: keras.Model, variable: keras.Variable) -> Tensor:
    """The value of an optimizer variable, which `fit` may hold in its own state."""
    state = keras_internals.live_optimizer_state(model)
    return variable.value if state is None else state[_index_of(model, variable)]


def assign_optimizer_var(model: keras.Model, variable: keras.Variable, value: float) -> None:
    """Assign an optimizer variable, which `fit` may hold in its own state."""
    state = keras_internals.live_optimizer_state(model)
    if state is None:
        variable.assign(value)
    else:
        state[_index_of(model, variable)] = jnp.asarray(value, variable.dtype)


def _index_of(model: keras.Model, variable: keras.Variable) -> int:
    return next(i for i, v in enumerate(model.optimizer.variables) if v is variable)
