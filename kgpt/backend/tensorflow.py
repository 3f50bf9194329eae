"""TensorFlow: XLA through `jit_compile`."""

import keras
import tensorflow as tf
from keras import ops
from tensorflow.compiler.tf2xla.python import xla

from kgpt.backend.attention import cached_attention as cached_attention
from kgpt.backend.attention import chunked_causal_attention

cond = ops.cond
device_scope = keras.device
JIT_TRAINING = True  # compile the training step unless told otherwise
INT8_ROWS = 2  # at least
GELU_SCALE = 1.5957691216057308  # 2 * sqrt(2 / pi)


def dense(x, kernel, bias=None):
    """x (..., D) times kernel (D, F), as one 2-D product, plus bias (F,)."""
    kernel = ops.convert_to_tensor(kernel)
    if len(x.shape) == 2:
        out = tf.matmul(x, kernel)
    else:
        flat = tf.reshape(x, (-1, kernel.shape[0]))
        out = ops.reshape(tf.matmul(flat, kernel), (*ops.shape(x)[:-1], kernel.shape[1]))
    return out if bias is None else out + ops.convert_to_tensor(bias)


def int8_matmul(x, q):
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F).

    XLA on CPU takes ten times as long with one row as with two, so that one is added.
    """
    rows = tf.shape(x)[0]
    x = tf.pad(x, ((0, tf.maximum(0, INT8_ROWS - rows)), (0, 0)))
    return matmul_nt(x, q, tf.int32)[:rows]


def matmul_nt(x, w, dtype=None):
    """x (M, D) times the transpose of w (F, D).

    XLA on CPU takes half the time with the matrix on the left, where it would not leave it.
    """
    out = tf.matmul(w, x, transpose_b=True, output_type=dtype)  # (F, M)
    if tf.inside_function():  # the barrier is an operation of XLA alone
        (out,) = xla.optimization_barrier(out)
    return tf.transpose(out)


def prepack_weight(matrix):
    """XLA knows no order of its own for a matrix."""


def prefers_transposed_weights():
    """On CPU; GPUs read matrices either way."""
    return not tf.config.list_physical_devices("GPU")


def transpose_weights_inplace(variables):
    """XLA has no say in how a variable lies in memory."""


def refresh_tracking(layer):
    """Layers have no other record of the variables of the layers within."""


def causal_attention(query, key, value, window=None):
    """Attention of a sequence on itself: query (B, T, N, H), key and value (B, T, K, H)."""
    groups = query.shape[2] // key.shape[2]
    key, value = (tf.repeat(x, groups, axis=2) if groups > 1 else x for x in (key, value))
    return chunked_causal_attention(query, key, value, window)


def cache_indices(start, count, length, cache_len):
    """For one new token: its slot (B,), and whether it is real (B,).

    For more: which new token each slot receives (B, S), and whether it receives any (B, S).
    """
    if isinstance(length, int) and length == 1:
        return start % cache_len, count > 0
    # How far behind its sequence's first new token each slot lies, going round the end.
    offset = (tf.range(cache_len)[None] - start[:, None]) % cache_len
    return tf.minimum(offset, length - 1), offset < count[:, None]


def update_cache(cache, new, indices):
    """A cache (B, K, S, H) with new (B, K, T, H) stored.

    One token is scattered: with a `where` over all slots, XLA would recompute the rotary embedding
    of the new key for each slot.
    """
    if new.shape[2] != 1:
        token, receives = indices
        new = ops.take_along_axis(new, token[:, None, :, None], axis=2)  # (B, K, S, H)
        return tf.where(receives[:, None, :, None], new, cache)
    slot, real = indices
    rows, heads = tf.shape(cache)[0], cache.shape[1]
    row, head = tf.meshgrid(tf.range(rows), tf.range(heads), indexing="ij")
    at = tf.stack([row, head, tf.broadcast_to(slot[:, None], tf.shape(row))], axis=-1)  # (B, K, 3)
    token = tf.where(real[:, None, None], new[:, :, 0], tf.gather_nd(cache, at))  # (B, K, H)
    return tf.tensor_scatter_nd_update(cache, at, token)


def slice_row(x, row):
    """Row `row` of x (B, ...), as (1, ...)."""
    return tf.slice(x, [row] + [0] * (len(x.shape) - 1), [1, *x.shape[1:]])


def update_row(x, row, value):
    """x (B, ...) with `value` (1, ...) in place of one row."""
    return ops.slice_update(x, [row] + [0] * (len(x.shape) - 1), value)


def update_column(x, column, value):
    """x (B, N, ...) with `value` (B, ...) in column `column`."""
    columns = tf.reshape(tf.range(x.shape[1]), (1, -1) + (1,) * (len(x.shape) - 2))
    return tf.where(columns == column, value[:, None], x)


def dropout(x, rate, key):
    """Zero a share `rate` of x and scale the rest; `key` is two int32, the noise its function."""
    noise = tf.random.stateless_uniform(tf.shape(x), seed=key)
    return tf.where(noise >= rate, x / tf.cast(1.0 - rate, x.dtype), tf.zeros((), x.dtype))


def layer_norm(x, scale, bias, epsilon):
    x32 = tf.cast(x, tf.float32)
    centred = x32 - tf.reduce_mean(x32, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    y = centred * tf.math.rsqrt(variance + epsilon) * ops.convert_to_tensor(scale)
    return tf.cast(y if bias is None else y + ops.convert_to_tensor(bias), x.dtype)


def rms_norm(x, scale, epsilon):
    x32 = tf.cast(x, tf.float32)
    mean_square = tf.reduce_mean(tf.square(x32), axis=-1, keepdims=True)
    scaled = x32 * tf.math.rsqrt(mean_square + epsilon) * ops.convert_to_tensor(scale)
    return tf.cast(scaled, x.dtype)


@tf.custom_gradient
def gelu_tanh(x):
    """x * sigmoid(2u), which equals 0.5x(1 + tanh u), with its gradient in closed form."""
    gate = tf.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))

    def backward(upstream):
        slope = GELU_SCALE * (1 + 3 * 0.044715 * x * x)
        return upstream * (gate + x * gate * (1 - gate) * slope)

    return x * gate, backward


remat = tf.recompute_grad
custom_gradient = tf.custom_gradient


def jit(function, variables=(), donated=()):
    """`function(*tensors)`, jitted; it sees the current values of `variables`."""
    jitted = tf.function(function, jit_compile=True, reduce_retracing=False)

    def call(*args):
        return jitted(*args)

    call.compilations = jitted.experimental_get_tracing_count
    return call


def fx_trace(function):
    """As it is: what surrounds it is compiled whole."""
    return function


def synchronize(tensor):
    tf.nest.map_structure(lambda part: part.numpy(), tensor)


def device():
    """(platform, name): for example ("cpu", "CPU") or ("gpu", "NVIDIA H200")."""
    accelerators = tf.config.list_physical_devices("GPU")
    if not accelerators:
        return "cpu", "CPU"
    details = tf.config.experimental.get_device_details(accelerators[0])
    return "gpu", details.get("device_name", "GPU")


def sync_model_state(model):
    """Variables are always up to date on TensorFlow."""


def read_optimizer_var(model, variable):
    return variable.value


def assign_optimizer_var(model, variable, value):
    variable.assign(value)
