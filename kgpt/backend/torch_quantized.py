"""Quantized weights in the layouts of PyTorch's own integer kernels, for inference on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

Tensor = Any
CPU = torch.device("cpu")
Product = Callable[[Tensor, Tensor | None], Tensor]  # (x (..., D), bias (F,)) to (..., F)

GROUP_SIZE = 32  # inputs that share an int4 scale
INT4_COLUMNS = 16  # the outputs of an int4 weight are a multiple of it
ZERO_POINT = 128
# Added to a float of a magnitude below 2**22, its lowest byte is that float, rounded, plus 128.
ROUND_TO_LOWEST_BYTE = 1.5 * 2**23 + ZERO_POINT


def prepack_int8(q: Tensor, scale: Tensor, store: Any = None) -> Product | None:
    """The product with a weight q (F, D) int8 with scale (F,), packed for oneDNN.

    Each token is rounded to 8 bits with a scale of its own; integers are summed exactly. None
    where oneDNN has no such product, or one that saturates.
    """
    if q.device.type != "cpu" or not has_exact_int8():
        return None
    shape = q.shape
    packed = torch.ops.onednn.qlinear_prepack(q.contiguous(), None)
    scale, zeros = scale.float() / 127, torch.zeros(len(q), dtype=torch.int64, device=CPU)
    largest = torch.tensor(127.0, device=CPU)

    def multiply(x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, shape[1]).float()
        absmax = rows.abs().amax(-1, keepdim=True)  # (M, 1); where it is 0, codes are arbitrary
        shifted = rows * (largest / absmax) + ROUND_TO_LOWEST_BYTE
        codes = shifted.view(torch.int32).to(torch.uint8)
        sums = _qlinear(codes, packed, scale, zeros)
        out = sums * absmax if bias is None else torch.addcmul(bias, sums, absmax)
        return out.view(*x.shape[:-1], shape[0]).to(x.dtype)

    return multiply


def _qlinear(codes: Tensor, packed: Tensor, scale: Tensor, zeros: Tensor) -> Tensor:
    """Codes (M, D), less their zero point, times a packed weight: (M, F) float32."""
    return torch.ops.onednn.qlinear_pointwise.default(
        codes, 1.0, ZERO_POINT, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )


@functools.cache
def has_exact_int8() -> bool:
    """Does oneDNN multiply 8-bit integers here, without saturating as before AVX-512 VNNI?"""
    try:
        weight = torch.full((32, 64), 127, dtype=torch.int8, device=CPU)
        codes = torch.full((2, 64), 255, dtype=torch.uint8, device=CPU)
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        scale, zeros = torch.ones(32, device=CPU), torch.zeros(32, dtype=torch.int64, device=CPU)
        sums = _qlinear(codes, packed, scale, zeros)
    except (AttributeError, RuntimeError):
        return False
    return bool((sums == 64 * 127 * 127).all())


def prepack_int4(q: Tensor, scale: Tensor, store: Any = None) -> Product | None:
    """The product with an int4 weight, bytes (F, D / 2) and scales (F, D / 32), in bfloat16.

    None where PyTorch has no such product.
    """
    outputs, inputs = len(q), 2 * q.shape[1]
    if q.device.type != "cpu" or outputs % INT4_COLUMNS or not has_int4():
        return None
    codes = torch.stack([q & 15, q >> 4], dim=-1).view(outputs, inputs)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    scales = scale.to(torch.bfloat16).t()  # (D / 32, F)
    pairs = torch.stack([scales, torch.zeros_like(scales)], dim=-1)  # with zero points

    def multiply(x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, inputs).to(torch.bfloat16)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, GROUP_SIZE, pairs)
        out = out.to(x.dtype) if bias is None else torch.add(bias, out)
        return out.view(*x.shape[:-1], outputs)

    return multiply


@functools.cache
def has_int4() -> bool:
    """Does PyTorch have a vectorised product with int4 weights for this CPU?"""
    vectorised = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return vectorised and hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
