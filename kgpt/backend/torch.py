"""PyTorch: eager, with oneDNN matrix products on CPU and fused attention."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import keras
import torch
import torch.nn.functional as F
from keras import ops
from torch.utils.checkpoint import checkpoint

from kgpt.backend import keras_internals, one_device, one_process, quantized
from kgpt.backend.one_batch_ahead import OneBatchAhead
from kgpt.backend.process_memory import peak_resident_bytes
from kgpt.backend.torch_attention import cache_indices as cache_indices
from kgpt.backend.torch_attention import cached_attention as cached_attention
from kgpt.backend.torch_attention import causal_attention as causal_attention
from kgpt.backend.torch_attention import update_cache as update_cache
from kgpt.backend.torch_compile import compile_regions as compile_regions
from kgpt.backend.torch_compile import compiles_regions as compiles_regions
from kgpt.backend.torch_device import device_memory as device_memory
from kgpt.backend.torch_device import limit_memory as limit_memory
from kgpt.backend.torch_device import set_precision as set_precision
from kgpt.backend.torch_dropout import dropout as dropout
from kgpt.backend.torch_jit import fx_trace as fx_trace
from kgpt.backend.torch_jit import jit as jit
from kgpt.backend.torch_jit import jit_steps as jit_steps
from kgpt.backend.torch_optimizer import optimizer_class as optimizer_class
from kgpt.backend.torch_quantized import int8_matmul as int8_matmul
from kgpt.backend.torch_quantized import prepack_int4 as prepack_int4
from kgpt.backend.torch_quantized import prepack_int8 as prepack_int8
from kgpt.backend.torch_transfer import constant as constant
from kgpt.backend.torch_transfer import to_device as to_device
from kgpt.backend.torch_transfer import to_host as to_host

Tensor = Any
Function = Callable[..., Any]

# On AMD CPUs MKL's float32 GEMM runs at half the speed of oneDNN's, which is in the same build.
# The operator is the one that torch.compile emits.
_onednn_linear = getattr(getattr(torch.ops, "mkldnn", None), "_linear_pointwise", None)
JIT_TRAINING = False
distribution = one_device
processes = one_process
MIN_PACKED_ROWS = 4
_mkldnn: Any = torch.backends.mkldnn  # not annotated
_HAS_ONEDNN = _mkldnn.is_available() and _onednn_linear is not None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (M, D) times the transpose of weight (F, D), plus bias (F,)."""
    return _onednn_linear(x, weight, bias, "none", [], "")


class _OneDnnDense(torch.autograd.Function):
    """(M, D) x (D, F) and its gradients, each as one oneDNN product.

    A frozen kernel gets no gradient, and its input is not kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, kernel)
        return _linear(x, kernel.t())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        x, kernel = ctx.saved_tensors
        dx = _linear(upstream, kernel) if ctx.needs_input_grad[0] else None
        return dx, None if x is None else _linear(x.t(), upstream.t())


_onednn_dense: Function = _OneDnnDense.apply


def dense(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., D) times kernel (D, F), plus bias (F,)."""
    kernel = ops.convert_to_tensor(kernel)
    bias = None if bias is None else ops.convert_to_tensor(bias)
    flat = x.reshape(-1, x.shape[-1])
    by_onednn = _HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32
    if not by_onednn or torch.compiler.is_compiling():  # Inductor has products of its own
        out = F.linear(flat, kernel.t(), bias)
    elif torch.is_grad_enabled():
        out = _onednn_dense(flat, kernel)
        out = out if bias is None else out + bias
    else:
        out = _linear(flat, kernel.t(), bias)
    return out.view(*x.shape[:-1], kernel.shape[-1])


int8_linear = partial(quantized.int8_linear, int8_matmul)
int4_linear = partial(quantized.int4_linear, dense)


def matmul_nt(x: Tensor, w: Tensor) -> Tensor:
    """x (M, D) times the transpose of w (F, D), which may be prepacked.

    Pad M to 4: with prepacked weights oneDNN is slower for one row than for four.
    """
    if not w.is_mkldnn:
        return dense(x, w.t())
    rows = len(x)
    return _linear(F.pad(x, (0, 0, 0, max(0, MIN_PACKED_ROWS - rows))), w)[:rows]


def prepack_weight(matrix: Tensor) -> Tensor | None:
    """A weight (F, D) in oneDNN's blocked layout, for `matmul_nt` alone; None without oneDNN.

    Otherwise oneDNN reorders the weight in every product, which for float32 is half of the time
    at M = 8.
    """
    matrix = ops.convert_to_tensor(matrix)
    if not _HAS_ONEDNN or matrix.device.type != "cpu":
        return None
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if matrix.dtype not in ((torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(matrix.detach().contiguous(), None)


def prefers_transposed_weights() -> bool:
    """True on CPU; GPUs multiply by either layout at the same speed."""
    return _HAS_ONEDNN and not torch.cuda.is_available() and not torch.backends.mps.is_available()


def transpose_weights_inplace(variables: Iterable[keras.Variable]) -> None:
    """Store matrices (D, F) in column-major order; shapes and values stay.

    Products with few rows, as in decoding, take a third less time.
    """
    for variable in variables:
        matrix = variable.value.data
        if matrix.device.type == "cpu" and matrix.is_contiguous():
            variable.value.data = matrix.t().contiguous().t()


def refresh_tracking(layer: keras.Layer) -> None:
    """Drop references to variables that child layers have released."""
    keras_internals.retrack_variables(layer)


def split(x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
    """Consecutive parts of x with these sizes along `axis`; the gradient is one concatenation.

    That of a slice is as large as x, and mostly zeros.
    """
    return list(torch.split(x, list(sizes), dim=axis))


def slice_row(x: Tensor, row: Tensor) -> Tensor:
    """Row `row` of x (B, ...), as (1, ...): a view."""
    return x[int(row) : int(row) + 1]


def update_row(x: Tensor, row: Tensor, value: Tensor) -> Tensor:
    """Write `value` (1, ...) over one row of x (B, ...), in place."""
    target = slice_row(x, row)
    if target.data_ptr() != value.data_ptr():
        target.copy_(value)
    return x


def cond(condition: Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` if the tensor `condition` is true, else `no()`."""
    return yes() if condition else no()


def update_column(x: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """Write `value` (B, ...) over column `column` of x (B, N, ...), in place.

    `x[:, column] = value` would read the column's number from the device.
    """
    return x.index_copy_(1, column.reshape(1).long(), value[:, None].to(x.dtype))


def occurs(ids: Tensor, size: int) -> Tensor:
    """Which of the numbers below `size` are in each row of ids (B, E): (B, size); -1 is none."""
    found = torch.zeros((len(ids), size + 1), dtype=torch.bool, device=ids.device)
    return found.scatter_(1, torch.where(ids >= 0, ids, size).long(), True)[:, :size]


def layer_norm(x: Tensor, scale: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """LayerNorm over the last axis, with statistics in float32."""
    bias = None if bias is None else ops.convert_to_tensor(bias).to(x.dtype)
    scale = ops.convert_to_tensor(scale).to(x.dtype)
    return F.layer_norm(x, x.shape[-1:], scale, bias, epsilon)


def rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """RMSNorm over the last axis, with statistics in float32."""
    return F.rms_norm(x, x.shape[-1:], ops.convert_to_tensor(scale).to(x.dtype), epsilon)


def gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def remat(function: Function) -> Function:
    def recomputed(*args: Any) -> Any:
        return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)

    return recomputed


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *args: Tensor) -> Tensor:
        output, ctx.pullback = function(*args)
        return output

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        gradients = ctx.pullback(upstream)
        return (None, *gradients) if isinstance(gradients, tuple) else (None, gradients)


_with_gradient: Function = _WithGradient.apply


def custom_gradient(function: Function) -> Function:
    """`function(*args)` returns (output, pullback); the pullback gives the gradients of `args`."""

    def call(*args: Any) -> Any:
        return _with_gradient(function, *args)

    return call


def without_gradient(function: Function) -> Function:
    """`function`, which keeps nothing for a backward pass."""

    def call(*args: Any) -> Any:
        with torch.no_grad():
            return function(*args)

    return call


def branches_on_host() -> bool:
    """True on a GPU: `cond` reads its condition from the device."""
    return device()[0] != "cpu"


def specializes_decoding() -> bool:
    """True: further programs cost no compilation."""
    return True


def prefetch(dataset: keras.utils.PyDataset) -> keras.utils.PyDataset:
    """On a GPU, its batches copied there from pinned memory while the one before is computed."""
    return OneBatchAhead(dataset, to_device) if torch.cuda.is_available() else dataset


def synchronize(tensor: Any) -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device() -> tuple[str, str]:
    """(platform, name): for example ("cpu", "CPU") or ("gpu", "NVIDIA H200")."""
    if torch.cuda.is_available():
        return "gpu", torch.cuda.get_device_name()
    if torch.backends.mps.is_available():
        return "gpu", "Apple GPU"
    return "cpu", "CPU"


def peak_memory() -> int:
    """The most bytes of the GPU's memory in tensors so far; on a CPU, of the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


def device_scope(name: str) -> Any:
    """`keras.device`; on "cpu:0", unlike "cpu", Keras makes variables that are no parameters."""
    return keras.device("cpu" if name.startswith("cpu") else name)


def sync_model_state(model: keras.Model) -> None:
    """Variables are always up to date on PyTorch."""


def read_optimizer_var(model: keras.Model, variable: keras.Variable) -> Tensor:
    return variable.value


def assign_optimizer_var(model: keras.Model, variable: keras.Variable, value: float) -> None:
    """Assign an optimizer variable; `fill_` does not wait for a GPU, as copying a tensor does."""
    with torch.no_grad():
        variable.value.fill_(value)
