"""TensorFlow: XLA through `jit_compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.compiler.tf2xla.python import xla

from kgpt.backend import one_device, one_process, quantized, xla_int4
from kgpt.backend.attention import attention_with_dropout, chunked_causal_attention
from kgpt.backend.fixed_steps import FixedSteps
from kgpt.backend.kv_attention import cached_attention as xla_cached_attention
from kgpt.backend.optimizer import optimizer_class as optimizer_class
from kgpt.backend.process_memory import peak_resident_bytes
from kgpt.backend.tensorflow_cache import cache_indices as cache_indices
from kgpt.backend.tensorflow_cache import update_cache as update_cache
from kgpt.backend.tensorflow_device import device_memory as device_memory
from kgpt.backend.tensorflow_device import limit_memory as limit_memory
from kgpt.backend.tensorflow_device import set_precision as set_precision
from kgpt.backend.whole_step import compile_regions as compile_regions
from kgpt.backend.whole_step import compiles_regions as compiles_regions
from kgpt.backend.whole_step import constant as constant
from kgpt.backend.whole_step import prepack_int8 as prepack_int8
from kgpt.backend.whole_step import split as split
from kgpt.backend.whole_step import without_gradient as without_gradient

Tensor = Any
Function = Callable[..., Any]

cond = ops.cond
device_scope = keras.device
distribution = one_device
processes = one_process
JIT_TRAINING = True  # the default of `compile(jit_compile=...)`
MIN_INT8_ROWS = 2
GELU_SCALE = 1.5957691216057308  # 2 * sqrt(2 / pi)


def dense(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times kernel (D, F), as one 2-D product, plus bias (F,)."""
    kernel = ops.convert_to_tensor(kernel)
    if len(x.shape) == 2:
        out = tf.matmul(x, kernel)
    else:
        flat = tf.reshape(x, (-1, kernel.shape[0]))
        out = ops.reshape(tf.matmul(flat, kernel), (*ops.shape(x)[:-1], kernel.shape[1]))
    return out if bias is None else out + ops.convert_to_tensor(bias)


def int8_matmul(x: Tensor, q: Tensor) -> Tensor:
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F).

    Pad M=1 to 2: XLA:CPU's int8 GEMM is about 10x slower for one row.
    """
    rows = tf.shape(x)[0]
    x = tf.pad(x, ((0, tf.maximum(0, MIN_INT8_ROWS - rows)), (0, 0)))
    return matmul_nt(x, q, tf.int32)[:rows]


int8_linear = partial(quantized.int8_linear, int8_matmul)
int4_linear = partial(quantized.int4_linear, dense)


def prepack_int4(q: Tensor, scale: Tensor, store: Function) -> Function | None:
    """The product with an int4 weight in the layout of `xla_int4`; None on a GPU."""
    if not prefers_transposed_weights():
        return None
    return xla_int4.prepack_int4(int8_matmul, q, scale, store)


def matmul_nt(x: Tensor, w: Tensor, dtype: Any = None) -> Tensor:
    """x (M, D) times the transpose of w (F, D).

    About 2x faster on XLA:CPU with the weight as left operand; the barrier stops XLA swapping
    it back.
    """
    out = tf.matmul(w, x, transpose_b=True, output_type=dtype)  # (F, M)
    if tf.inside_function():  # the barrier is an operation of XLA alone
        (out,) = xla.optimization_barrier(out)
    return tf.transpose(out)


def prepack_weight(matrix: Tensor) -> None:
    """XLA has no packed weight format."""


def prefers_transposed_weights() -> bool:
    """True on CPU; GPUs multiply by either layout at the same speed."""
    return not tf.config.list_physical_devices("GPU")


def transpose_weights_inplace(variables: Iterable[keras.Variable]) -> None:
    """Do nothing: XLA decides the layout of variables itself."""


def refresh_tracking(layer: keras.Layer) -> None:
    """Do nothing: layers keep no second record of their child layers' variables."""


def causal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: int | None = None,
    drop: Function | None = None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    """Attention of a sequence on itself: query (B, T, N, H), key and value (B, T, K, H)."""
    if drop is not None:
        return attention_with_dropout(query, key, value, drop, window, segment_ids)
    return chunked_causal_attention(query, key, value, window, segment_ids)


def cached_attention(
    query: Tensor, layer: tuple[Tensor, ...], mask: Tensor, filled: Tensor
) -> Tensor:
    """Attention of new tokens on one layer's cache; see `kgpt/backend/kv_attention.py`."""
    return xla_cached_attention(query, layer, mask, filled, on_cpu=not branches_on_host())


def slice_row(x: Tensor, row: Tensor) -> Tensor:
    """Row `row` of x (B, ...), as (1, ...)."""
    return tf.slice(x, [row] + [0] * (len(x.shape) - 1), [1, *x.shape[1:]])


def update_row(x: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """x (B, ...) with `value` (1, ...) in place of one row."""
    return ops.slice_update(x, [row] + [0] * (len(x.shape) - 1), value)


def update_column(x: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """x (B, N, ...) with `value` (B, ...) in column `column`."""
    columns = tf.reshape(tf.range(x.shape[1]), (1, -1) + (1,) * (len(x.shape) - 2))
    return tf.where(columns == column, value[:, None], x)


def occurs(ids: Tensor, size: int) -> Tensor:
    """Which of the numbers below `size` are in each row of ids (B, E): (B, size); -1 is none."""
    rows = tf.broadcast_to(tf.range(tf.shape(ids)[0])[:, None], tf.shape(ids))
    index = tf.stack([rows, tf.maximum(ids, 0)], axis=-1)  # (B, E, 2)
    counts = tf.scatter_nd(index, tf.cast(ids >= 0, tf.int32), [tf.shape(ids)[0], size])
    return counts > 0


def dropout(x: Tensor, rate: float, key: Tensor) -> Tensor:
    """Dropout whose mask is a function of `key`, two int32."""
    noise = tf.random.stateless_uniform(tf.shape(x), seed=key)
    return tf.where(noise >= rate, x / tf.cast(1.0 - rate, x.dtype), tf.zeros((), x.dtype))


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """LayerNorm over the last axis, with statistics in float32."""
    x32 = tf.cast(x, tf.float32)
    centred = x32 - tf.reduce_mean(x32, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    y = centred * tf.math.rsqrt(variance + epsilon) * ops.convert_to_tensor(scale)
    return tf.cast(y if bias is None else y + ops.convert_to_tensor(bias), x.dtype)


def rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last axis, with statistics in float32."""
    x32 = tf.cast(x, tf.float32)
    mean_square = tf.reduce_mean(tf.square(x32), axis=-1, keepdims=True)
    scaled = x32 * tf.math.rsqrt(mean_square + epsilon) * ops.convert_to_tensor(scale)
    return tf.cast(scaled, x.dtype)


def _gelu_with_gradient(x: Tensor) -> tuple[Tensor, Function]:
    """x * sigmoid(2u), which equals 0.5x(1 + tanh u), with its gradient in closed form."""
    gate = tf.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))

    def backward(upstream: Tensor) -> Tensor:
        slope = GELU_SCALE * (1 + 3 * 0.044715 * x * x)
        return upstream * (gate + x * gate * (1 - gate) * slope)

    return x * gate, backward


gelu_tanh = tf.custom_gradient(_gelu_with_gradient)


def remat(function: Function) -> Function:
    """`function` recomputed in the backward pass; of its arguments some may be None."""

    def recomputed(*args: Any) -> Any:
        given = [i for i, arg in enumerate(args) if arg is not None]

        def of_tensors(*tensors: Tensor) -> Any:
            of_position = dict(zip(given, tensors, strict=True))
            return function(*(of_position.get(i) for i in range(len(args))))

        return tf.recompute_grad(of_tensors)(*(args[i] for i in given))

    return recomputed


def custom_gradient(function: Function) -> Function:
    """`function(*args)` returns (output, pullback); the pullback gives the gradients of `args`.

    A variable that an argument holds is read beforehand, since TensorFlow, executed eagerly, asks
    for gradients of the variables that `function` reads. Others that it reads are frozen.
    """

    def with_variables(*args: Any) -> tuple[Tensor, Function]:
        output, pullback = function(*args)

        def gradients(*upstream: Any, variables: Any = ()) -> Any:
            of_args = pullback(*upstream)
            return (of_args, [None] * len(variables)) if variables else of_args

        return output, gradients

    with_gradient = tf.custom_gradient(with_variables)
    return lambda *tensors: with_gradient(*[tf.identity(x) for x in tensors])


def jit(
    function: Function, variables: Iterable[keras.Variable] = (), donated: Iterable[int] = ()
) -> Any:
    """`function(*tensors)`, jitted; it sees the current values of `variables`.

    AutoGraph, which rewrites Python conditions on tensors, would take most of the time of tracing.
    """
    jitted = tf.function(function, jit_compile=True, reduce_retracing=False, autograph=False)
    jitted._omit_frequent_tracing_warning = True  # each shape is compiled once, and shapes are few

    def call(*args: Any) -> Any:
        return jitted(*args)

    call.compilations = jitted.experimental_get_tracing_count
    return call


def jit_steps(step: Function, variables: Iterable[keras.Variable] = ()) -> Any:
    """`function(params, state, cache, num_steps)`: `step(params, state, cache)` repeated."""
    return FixedSteps(jit, step, list(variables))


def branches_on_host() -> bool:
    """True on a GPU: XLA's `cond` and `while` read their conditions from the device."""
    return bool(tf.config.list_physical_devices("GPU"))


def specializes_decoding() -> bool:
    """True on a GPU; a CPU has one program for all, because each takes seconds to compile."""
    return branches_on_host()


def fx_trace(function: Function) -> Any:
    """`function` unchanged: the enclosing function is compiled as a whole."""
    return function


def to_host(tree: Any) -> Any:
    """The tensors and variables of a nested structure as numpy arrays, once they are computed.

    On CPU an array is a read-only view.
    """
    return keras.tree.map_structure(np.asarray, tree)


def to_device(tree: Any) -> Any:
    """The numpy arrays of a nested structure as tensors; a compiled function takes either."""
    return keras.tree.map_structure(ops.convert_to_tensor, tree)


def prefetch(dataset: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """The data set itself: `tf.data` prepares the next batches on the host.

    TensorFlow keeps int32 tensors such as tokens in host memory until a compiled step takes them.
    """
    return dataset


def synchronize(tensor: Any) -> None:
    to_host(tensor)


def device() -> tuple[str, str]:
    """(platform, name): for example ("cpu", "CPU") or ("gpu", "NVIDIA H200")."""
    accelerators = tf.config.list_physical_devices("GPU")
    if not accelerators:
        return "cpu", "CPU"
    details = tf.config.experimental.get_device_details(accelerators[0])
    return "gpu", details.get("device_name", "GPU")


def peak_memory() -> int:
    """The most bytes of the GPU's memory in use so far; on a CPU, of the process's."""
    if tf.config.list_physical_devices("GPU"):
        return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
    return peak_resident_bytes()


def sync_model_state(model: keras.Model) -> None:
    """Variables are always up to date on TensorFlow."""


def read_optimizer_var(model: keras.Model, variable: keras.Variable) -> Tensor:
    return variable.value


def assign_optimizer_var(model: keras.Model, variable: keras.Variable, value: float) -> None:
    variable.assign(value)
