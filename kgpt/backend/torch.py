"""PyTorch: eager, with oneDNN products on the processor and fused attention everywhere."""

import hashlib
import struct

import keras
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from keras import ops
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from kgpt.backend import keras_internals

# MKL multiplies float32 matrices at half speed on AMD processors; oneDNN, which comes in the same
# build, does not. The operator is the one that torch's own compiler emits.
_onednn_linear = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)
JIT_TRAINING = False
PACKED_ROWS = 4  # at least
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and _onednn_linear is not None


def _linear(x, weight, bias=None):
    """x (M, D) times the transpose of weight (F, D), plus bias (F,)."""
    return _onednn_linear(x, weight, bias, "none", [], "")


class _OneDnnDense(torch.autograd.Function):
    """(M, D) x (D, F) and its gradients, each as one oneDNN product."""

    @staticmethod
    def forward(ctx, x, kernel):
        ctx.save_for_backward(x, kernel)
        return _linear(x, kernel.t())

    @staticmethod
    def backward(ctx, upstream):
        x, kernel = ctx.saved_tensors
        return _linear(upstream, kernel), _linear(x.t(), upstream.t())


def dense(x, kernel, bias=None):
    """x (..., D) times kernel (D, F), plus bias (F,)."""
    kernel = ops.convert_to_tensor(kernel)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    flat = x.reshape(-1, x.shape[-1])
    if not (_HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32):
        out = F.linear(flat, kernel.t(), bias)
    elif torch.is_grad_enabled():
        out = _OneDnnDense.apply(flat, kernel)
        out = out if bias is None else out + bias
    else:
        out = _linear(flat, kernel.t(), bias)
    return out.view(*x.shape[:-1], kernel.shape[-1])


def int8_matmul(x, q):
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F)."""
    if x.device.type == "cpu":
        return torch._int_mm(x, q.t())
    return (x.float() @ q.float().t()).round().to(torch.int32)


def matmul_nt(x, w):
    """x (M, D) times the transpose of w (F, D), which may be `packed`.

    With packed weights oneDNN takes longer over one row than over four, so that those are added.
    """
    if not w.is_mkldnn:
        return dense(x, w.t())
    rows = len(x)
    return _linear(F.pad(x, (0, 0, 0, max(0, PACKED_ROWS - rows))), w)[:rows]


def prepack_weight(matrix):
    """A matrix (F, D) in the order of oneDNN's own, which nothing else can read; None without.

    Otherwise oneDNN brings a matrix into that order for every product. For float32 that is half
    the time of a product with eight rows.
    """
    matrix = ops.convert_to_tensor(matrix)
    if not _HAS_ONEDNN or matrix.device.type != "cpu":
        return None
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if matrix.dtype not in ((torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(matrix.detach().contiguous(), None)


def prefers_transposed_weights():
    """On CPU; GPUs read matrices either way."""
    return _HAS_ONEDNN and not torch.cuda.is_available() and not torch.backends.mps.is_available()


def transpose_weights_inplace(variables):
    """Turn matrices (D, F) so that each output's weights lie together; their values stay.

    The product of a matrix with few rows, which is what writing text is, takes a third less time.
    """
    for variable in variables:
        matrix = variable.value.data
        if matrix.device.type == "cpu" and matrix.is_contiguous():
            variable.value.data = matrix.t().contiguous().t()


def refresh_tracking(layer):
    """Drop references to variables that child layers have released."""
    keras_internals.retrack_variables(layer)


def causal_attention(query, key, value, window=None):
    """Attention of a sequence on itself: query (B, T, N, H), key and value (B, T, K, H)."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))  # (B, N, T, H)
    mask = None
    if window is not None:
        steps = torch.arange(q.shape[2], device=q.device)
        distance = steps[:, None] - steps[None, :]
        mask = (distance >= 0) & (distance < window)
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=1.0, enable_gqa=grouped
    )
    return out.transpose(1, 2)


def cached_attention(query, keys, values, mask):
    """Attention of new tokens (B, N, T, H) on a cache (B, K, S, H); `mask` is (B, T, S)."""
    if query.device.type == "cpu" and query.shape[2] == 1:
        return _attend_with_one(query, keys, values, mask)
    return F.scaled_dot_product_attention(
        query, keys, values, mask[:, None], scale=1.0, enable_gqa=query.shape[1] != keys.shape[1]
    )


def _attend_with_one(query, keys, values, mask):
    """`cached_attention` of one query: the fused kernel takes up to four times as long with one."""
    grouped = query.view(len(query), keys.shape[1], -1, query.shape[3])  # (B, K, G, H)
    scores = (grouped @ keys.transpose(2, 3)).float()  # (B, K, G, S)
    weights = torch.softmax(torch.where(mask[:, None], scores, -1e30), dim=-1)
    return (weights.to(values.dtype) @ values).view(query.shape)


def cache_indices(start, count, length, cache_len):
    """The slot of each new token (B, T), and whether it is real (B, T)."""
    steps = torch.arange(length, device=start.device)
    return (start[:, None] + steps) % cache_len, steps < count[:, None]


def update_cache(cache, new, indices):
    """Store new (B, K, T, H) in a cache (B, K, S, H), in place."""
    slots, real = indices
    if new.shape[2] == 1:  # shapes do not depend on values, so that `fx_trace` can trace it
        rows, slots, new = torch.arange(len(cache), device=cache.device), slots[:, 0], new[:, :, 0]
        cache[rows, :, slots] = torch.where(real[:, :, None], new, cache[rows, :, slots])
    else:
        rows, columns = real.nonzero(as_tuple=True)
        cache[rows, :, slots[rows, columns]] = new[rows, :, columns]
    return cache


def slice_row(x, row):
    """Row `row` of x (B, ...), as (1, ...): a view."""
    return x[int(row) : int(row) + 1]


def update_row(x, row, value):
    """Write `value` (1, ...) over one row of x (B, ...), in place."""
    target = slice_row(x, row)
    if target.data_ptr() != value.data_ptr():
        target.copy_(value)
    return x


def cond(condition, yes, no):
    """`yes()` if the tensor `condition` is true, else `no()`."""
    return yes() if condition else no()


def update_column(x, column, value):
    """Write `value` (B, ...) over column `column` of x (B, N, ...), in place."""
    x[:, column] = value
    return x


def dropout(x, rate, key):
    """Zero a share `rate` of x and scale the rest; `key` is two int32, the noise its function."""
    # Hashed, because the generator of the processor looks at the lowest 32 bits alone.
    packed = struct.pack("<2i", *(int(part) for part in key))
    seed = int.from_bytes(hashlib.blake2b(packed, digest_size=7).digest(), "little")
    generator = torch.Generator(x.device).manual_seed(seed)
    kept = torch.empty_like(x).bernoulli_(1.0 - rate, generator=generator)
    return x * kept.div_(1.0 - rate)


def layer_norm(x, scale, bias, epsilon):
    bias = None if bias is None else ops.convert_to_tensor(bias).to(x.dtype)
    scale = ops.convert_to_tensor(scale).to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], scale, bias, epsilon)


def rms_norm(x, scale, epsilon):
    return F.rms_norm(x, x.shape[-1:], ops.convert_to_tensor(scale).to(x.dtype), epsilon)


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def remat(function):
    def recomputed(*args):
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    return recomputed


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, *args):
        output, ctx.pullback = function(*args)
        return output

    @staticmethod
    def backward(ctx, upstream):
        gradients = ctx.pullback(upstream)
        return (None, *gradients) if isinstance(gradients, tuple) else (None, gradients)


def custom_gradient(function):
    """`function(*args)` returns (output, pullback); the pullback gives the gradients of `args`."""

    def call(*args):
        return _WithGradient.apply(function, *args)

    return call


def jit(function, variables=(), donated=()):
    """`function(*tensors)` without gradients; eager torch has nothing to compile."""

    def call(*args):
        with torch.inference_mode():
            return function(*keras.tree.map_structure(ops.convert_to_tensor, args))

    call.compilations = lambda: 0
    return call


def fx_trace(function):
    """`function(*tensors)` as the operations it ran, replayed without the Python of its layers.

    That Python is a quarter of the time of a step of GPT-2 on a processor. One recording a shape,
    made at its first call. The function must be without gradients, its shapes must not depend on
    values, and numpy must not see its tensors: what it computed would be taken for a constant.
    """
    recordings = {}

    def call(*args):
        leaves, structure = pytree.tree_flatten(args)
        shapes = tuple((x.shape, x.dtype) for x in leaves)
        if shapes not in recordings:
            flat = lambda *leaves: function(*pytree.tree_unflatten(leaves, structure))  # noqa: E731
            recordings[shapes] = make_fx(flat)(*leaves)
        return recordings[shapes](*leaves)

    call.compilations = lambda: len(recordings)
    return call


def synchronize(tensor):
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device():
    """(platform, name): for example ("cpu", "CPU") or ("gpu", "NVIDIA H200")."""
    if torch.cuda.is_available():
        return "gpu", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "gpu", "Apple GPU"
    return "cpu", "CPU"


def device_scope(name):
    """`keras.device`; on "cpu:0", unlike "cpu", Keras makes variables that are no parameters."""
    return keras.device("cpu" if name.startswith("cpu") else name)


def sync_model_state(model):
    """Variables are always up to date on PyTorch."""


def read_optimizer_var(model, variable):
    return variable.value


def assign_optimizer_var(model, variable, value):
    variable.assign(value)
