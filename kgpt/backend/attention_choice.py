"""Which implementation of causal attention runs: a function of device, type and shape alone.

Fused kernels take some types and head dimensions only. Where one does not apply another
implementation is chosen here, so that no model fails on a GPU for its shape.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

HALF_PRECISION = ("bfloat16", "float16")
AMPERE, HOPPER_MAJOR = (8, 0), 9
FLEX_HEAD_DIMS = (
    16,
    32,
    64,
    128,
)  # its backward pass at 256 exceeds the shared memory of many GPUs
MIN_FLEX_LENGTH = 512  # tokens; of shorter sequences few blocks of 128 are masked entirely


class AttentionDevice(NamedTuple):
    """A device, as far as attention depends on it.

    Attributes:
        platform: "cpu", "gpu" or another.
        compute_capability: (major, minor) of a GPU of NVIDIA; None for other devices.
        has_cudnn: JAX finds cuDNN.
        has_triton: PyTorch finds Triton, which compiles FlexAttention.
    """

    platform: str = "cpu"
    compute_capability: tuple[int, int] | None = None
    has_cudnn: bool = False
    has_triton: bool = False

    @property
    def has_flash_attention(self) -> bool:
        """Is it an NVIDIA GPU of the Ampere generation or later?"""
        capability = self.compute_capability
        return self.platform == "gpu" and capability is not None and capability >= AMPERE


class AttentionCall(NamedTuple):
    """Types and shapes of one call of causal attention.

    Attributes:
        dtype: of query, key and value.
        head_dim: H.
        length: T; None where it is not known when the function is compiled.
        window: sliding-window size; None for full attention.
        grouped: there are fewer key/value heads than query heads.
        dropout: attention weights are dropped.
        packed: tokens attend within their segment only.
    """

    dtype: str
    head_dim: int
    length: int | None = None
    window: int | None = None
    grouped: bool = False
    dropout: bool = False
    packed: bool = False


JaxAttention = Literal["cudnn", "chunked", "dropout"]
TorchAttention = Literal["sdpa", "sdpa_mask", "flex", "dropout"]


def jax_attention(device: AttentionDevice, call: AttentionCall) -> JaxAttention:
    """The implementation on JAX.

    Returns:
        "cudnn": flash attention of cuDNN, for half precision and head dimensions that are
            multiples of 8 up to 128, or 256 on Hopper. Of packed sequences it takes the mask as a
            bias, whose gradient it computes on Hopper and later, for even lengths.
        "chunked": `chunked_causal_attention`.
        "dropout": `attention_with_dropout`; cuDNN's dropout takes no key.
    """
    if call.dropout:
        return "dropout"
    if not (device.has_flash_attention and device.has_cudnn and call.dtype in HALF_PRECISION):
        return "chunked"
    assert device.compute_capability is not None
    if call.packed and (device.compute_capability < (HOPPER_MAJOR, 0) or (call.length or 1) % 2):
        return "chunked"
    largest = 256 if device.compute_capability[0] == HOPPER_MAJOR else 128
    return "cudnn" if call.head_dim % 8 == 0 and call.head_dim <= largest else "chunked"


def torch_attention(device: AttentionDevice, call: AttentionCall) -> TorchAttention:
    """The implementation on PyTorch.

    Returns:
        "sdpa": `scaled_dot_product_attention` with `is_causal`, which picks a kernel itself.
        "sdpa_mask": the same with the mask of a sliding window or of segments.
        "flex": FlexAttention, which skips what lies outside a sliding window or a segment.
        "dropout": `attention_with_dropout`; the dropout of the fused kernels takes no key.
    """
    if call.dropout:
        return "dropout"
    if not needs_mask(call):
        return "sdpa"
    flex = (
        device.has_flash_attention
        and device.has_triton
        and call.dtype in HALF_PRECISION
        and call.head_dim in FLEX_HEAD_DIMS
        and (call.length or 0) >= MIN_FLEX_LENGTH
    )
    return "flex" if flex else "sdpa_mask"


def torch_repeats_kv_heads(device: AttentionDevice, call: AttentionCall) -> bool:
    """Are grouped key/value heads repeated before `scaled_dot_product_attention`?

    Of its kernels on a GPU only flash attention takes grouped heads, and it takes neither
    float32, nor a mask, nor heads wider than 256; without it, they would be left to the one that
    stores all attention weights.
    """
    if not call.grouped or device.platform == "cpu":
        return False
    flash = (
        device.has_flash_attention
        and call.dtype in HALF_PRECISION
        and call.head_dim <= 256
        and not needs_mask(call)
    )
    return not flash


def needs_mask(call: AttentionCall) -> bool:
    """Is anything masked but later tokens?"""
    return call.packed or effective_window(call.window, call.length) is not None


def effective_window(window: int | None, length: int | None) -> int | None:
    """The sliding window; None if it covers the whole sequence."""
    return None if window is None or (length is not None and window >= length) else window
