"""JAX: XLA on the processor, cuDNN attention on the GPU."""

import jax
import jax.numpy as jnp
import keras
from keras import ops

from kgpt.backend import keras_internals
from kgpt.backend.attention import cached_attention as cached_attention
from kgpt.backend.attention import chunked_causal_attention

remat = jax.checkpoint
custom_gradient = jax.custom_gradient
cond = ops.cond
device_scope = keras.device
JIT_TRAINING = True  # compile the training step unless told otherwise
INT8_ROWS = 2  # at least
GELU_SCALE = 1.5957691216057308  # 2 * sqrt(2 / pi)


def dense(x, kernel, bias=None):
    """x (..., D) times kernel (D, F), plus bias (F,).

    Flattened first: XLA on CPU is a third faster in 2-D.
    """
    kernel = ops.convert_to_tensor(kernel)
    flat = jnp.reshape(x, (-1, x.shape[-1]))
    out = jnp.reshape(flat @ kernel, (*x.shape[:-1], kernel.shape[-1]))
    return out if bias is None else out + ops.convert_to_tensor(bias)


def int8_matmul(x, q):
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F).

    XLA on CPU takes ten times as long with one row as with two, so that one is added.
    """
    rows = x.shape[0]
    x = jnp.pad(x, ((0, max(0, INT8_ROWS - rows)), (0, 0)))
    return matmul_nt(x, q, jnp.int32)[:rows]


def matmul_nt(x, w, dtype=None):
    """x (M, D) times the transpose of w (F, D).

    XLA on CPU takes half the time with the matrix on the left, where it would not leave it.
    """
    contracted = (((1,), (1,)), ((), ()))
    out = jax.lax.dot_general(w, x, contracted, preferred_element_type=dtype)  # (F, M)
    return jax.lax.optimization_barrier(out).T


def prepack_weight(matrix):
    """XLA knows no order of its own for a matrix."""


def prefers_transposed_weights():
    """On CPU; GPUs read matrices either way."""
    return jax.default_backend() == "cpu"


def transpose_weights_inplace(variables):
    """XLA has no say in how a variable lies in memory."""


def refresh_tracking(layer):
    """Layers have no other record of the variables of the layers within."""


def causal_attention(query, key, value, window=None):
    """Attention of a sequence on itself: query (B, T, N, H), key and value (B, T, K, H)."""
    if jax.default_backend() == "gpu" and query.dtype in (jnp.bfloat16, jnp.float16):
        local = None if window is None else (window - 1, 0)
        return jax.nn.dot_product_attention(
            query, key, value, scale=1.0, is_causal=True, local_window_size=local,
            implementation="cudnn",
        )  # fmt: skip
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, axis=2) if groups > 1 else x for x in (key, value))
    return chunked_causal_attention(query, key, value, window)


def cache_indices(start, count, length, cache_len):
    """The slot of each new token (B, T); `cache_len`, one past the end, for padding."""
    steps = jnp.arange(length)
    return jnp.where(steps < count[:, None], (start[:, None] + steps) % cache_len, cache_len)


def update_cache(cache, new, indices):
    """A cache (B, K, S, H) with new (B, K, T, H) stored; indices past the end are dropped.

    A `where` over all slots would have XLA recompute the rotary embedding of the new keys for each
    slot. XLA turns a scatter of one token into such a `where` and copies the whole cache; a second,
    dropped index makes it update in place.
    """
    rows = jnp.arange(cache.shape[0])[:, None]
    tokens = jnp.swapaxes(new, 1, 2)  # (B, T, K, H): the two indices come first
    if indices.size == 1:
        indices = jnp.pad(indices, ((0, 0), (0, 1)), constant_values=cache.shape[2])
        tokens = jnp.pad(tokens, ((0, 0), (0, 1), (0, 0), (0, 0)))
    return cache.at[rows, :, indices].set(tokens, mode="drop")


def slice_row(x, row):
    """Row `row` of x (B, ...), as (1, ...)."""
    return jax.lax.dynamic_slice_in_dim(x, row, 1)


def update_row(x, row, value):
    """x (B, ...) with `value` (1, ...) in place of one row."""
    return jax.lax.dynamic_update_slice_in_dim(x, value, row, 0)


def update_column(x, column, value):
    """x (B, N, ...) with `value` (B, ...) in column `column`."""
    return x.at[:, column].set(value)


def dropout(x, rate, key):
    """Zero a share `rate` of x and scale the rest; `key` is two int32, the noise its function."""
    seed = jax.random.wrap_key_data(jax.lax.bitcast_convert_type(key, jnp.uint32))
    kept = jax.random.bernoulli(seed, 1.0 - rate, x.shape)
    return jnp.where(kept, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros((), x.dtype))


def layer_norm(x, scale, bias, epsilon):
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    y = centred * jax.lax.rsqrt(variance + epsilon) * ops.convert_to_tensor(scale)
    return (y if bias is None else y + ops.convert_to_tensor(bias)).astype(x.dtype)


def rms_norm(x, scale, epsilon):
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
    scaled = x32 * jax.lax.rsqrt(mean_square + epsilon) * ops.convert_to_tensor(scale)
    return scaled.astype(x.dtype)


@jax.custom_vjp
def gelu_tanh(x):
    """x * sigmoid(2u), which equals 0.5x(1 + tanh u): XLA's exp is fast on CPU, its tanh is not."""
    return x * jax.nn.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))


def _gelu_forward(x):
    return gelu_tanh(x), x


def _gelu_backward(x, upstream):
    gate = jax.nn.sigmoid(GELU_SCALE * (x + 0.044715 * x * x * x))
    slope = GELU_SCALE * (1 + 3 * 0.044715 * x * x)
    return (upstream * (gate + x * gate * (1 - gate) * slope),)


gelu_tanh.defvjp(_gelu_forward, _gelu_backward)


def jit(function, variables=(), donated=()):
    """`function(*tensors)`, jitted; it sees the current values of `variables`.

    The arguments numbered in `donated` may be overwritten; the caller uses them no more.
    """
    variables = list(variables)

    def run(values, *args):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function(*args)

    run.__name__ = getattr(function, "__name__", "run")
    jitted = jax.jit(run, donate_argnums=tuple(1 + i for i in donated))

    def call(*args):
        return jitted([variable.value for variable in variables], *args)

    call.compilations = jitted._cache_size
    return call


def fx_trace(function):
    """As it is: what surrounds it is compiled whole."""
    return function


def synchronize(tensor):
    jax.block_until_ready(tensor)


def device():
    """(platform, name): for example ("cpu", "cpu") or ("gpu", "NVIDIA H200")."""
    first = jax.devices()[0]
    return first.platform, first.device_kind


def sync_model_state(model):
    model.jax_state_sync()


def read_optimizer_var(model, variable):
    """The value of an optimizer variable, which `fit` may hold in its own state."""
    state = keras_internals.live_optimizer_state(model)
    return variable.value if state is None else state[_index_of(model, variable)]


def assign_optimizer_var(model, variable, value):
    """Assign an optimizer variable, which `fit` may hold in its own state."""
    state = keras_internals.live_optimizer_state(model)
    if state is None:
        variable.assign(value)
    else:
        state[_index_of(model, variable)] = jnp.asarray(value, variable.dtype)


def _index_of(model, variable):
    return next(i for i, v in enumerate(model.optimizer.variables) if v is variable)
