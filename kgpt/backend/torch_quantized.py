"""Products with quantized weights on PyTorch; on a CPU in the layouts of its integer kernels."""

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
CODE_BITS = 8  # of an activation
ZERO_POINT = 128
ROWS = 1024  # outputs whose weights are summed at once
EXACT_INPUTS = 1024  # sums of that many products of int8 fit the 24 bits of float32
# Added to a float of a magnitude below 2**22, its lowest byte is that float, rounded, plus 128.
ROUND_TO_LOWEST_BYTE = 1.5 * 2**23 + ZERO_POINT


def int8_matmul(x: Tensor, q: Tensor) -> Tensor:
    """x (M, D) times the transpose of q (F, D), both int8, as int32 (M, F).

    In float32 on GPU, and on CPUs without VNNI, where `_int_mm` is 6x slower at M=32.
    """
    if x.device.type == "cpu" and exact_code_bits() == CODE_BITS:
        return torch._int_mm(x, q.t())
    parts = zip(x.split(EXACT_INPUTS, 1), q.split(EXACT_INPUTS, 1), strict=True)
    products = [(part.float() @ weights.float().t()).to(torch.int32) for part, weights in parts]
    return sum(products[1:], products[0])


def prepack_int8(q: Tensor, scale: Tensor, store: Any = None) -> Product | None:
    """The product with a weight q (F, D) int8 with scale (F,), packed for oneDNN.

    Each token is rounded to 8 bits with a scale of its own; integers are summed exactly. None
    where oneDNN has no such product.
    """
    exact_bits = exact_code_bits() if q.device.type == "cpu" else 0
    if not exact_bits:
        return None
    shape = q.shape
    qlinear = (_qlinear if exact_bits == CODE_BITS else _qlinear_in_parts)(q, scale.float() / 127)
    largest = torch.tensor(127.0, device=CPU)

    def multiply(x: Tensor, bias: Tensor | None = None) -> Tensor:
        rows = x.reshape(-1, shape[1]).float()
        absmax = rows.abs().amax(-1, keepdim=True)  # (M, 1); where it is 0, codes are arbitrary
        shifted = rows * (largest / absmax) + ROUND_TO_LOWEST_BYTE
        codes = shifted.view(torch.int32).to(torch.uint8)
        sums = qlinear(codes)
        out = sums * absmax if bias is None else torch.addcmul(bias, sums, absmax)
        return out.view(*x.shape[:-1], shape[0]).to(x.dtype)

    return multiply


def _qlinear(
    q: Tensor, scale: Tensor, zero_point: int = ZERO_POINT, bias: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Codes (M, D) uint8, less their zero point, times a weight, plus bias: (M, F) float32."""
    packed = torch.ops.onednn.qlinear_prepack(q.contiguous(), None)
    zeros = torch.zeros(len(q), dtype=torch.int64, device=CPU)

    def multiply(codes: Tensor) -> Tensor:
        return torch.ops.onednn.qlinear_pointwise.default(
            codes, 1.0, zero_point, packed, scale, zeros, bias,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip

    return multiply


def _qlinear_in_parts(q: Tensor, scale: Tensor) -> Callable[[Tensor], Tensor]:
    """`_qlinear` for CPUs on which only 7-bit codes do not saturate: code = 2 * high + low.

    One call multiplies both parts, so the weight is read once. The zero point is subtracted by a
    bias, which oneDNN would otherwise compute from the weight in every call.
    """
    sums = torch.cat([rows.sum(1) for rows in q.split(ROWS)])  # `sum` makes an int64 copy
    offset = -(ZERO_POINT / 3) * scale * sums  # added once to `low`, twice to `high`
    qlinear = _qlinear(q, scale, 0, offset)

    def multiply(codes: Tensor) -> Tensor:
        high, low = qlinear(torch.cat([codes >> 1, codes & 1])).chunk(2)  # (2 M, D), (2 M, F)
        return torch.add(low, high, alpha=2)

    return multiply


@functools.cache
def exact_code_bits() -> int:
    """The most bits of an unsigned code that oneDNN multiplies by int8 without saturating.

    8 with VNNI; 7 without (AVX2, Skylake's AVX-512), where pairs of products are added in 16 bits;
    0 if PyTorch has no such product.
    """
    weight = torch.full((32, 64), 127, dtype=torch.int8, device=CPU)
    try:
        qlinear = _qlinear(weight, torch.ones(32, device=CPU), 0)
        for bits in (CODE_BITS, CODE_BITS - 1):
            codes = torch.full((2, 64), 2**bits - 1, dtype=torch.uint8, device=CPU)
            if bool((qlinear(codes) == 64 * 127 * (2**bits - 1)).all()):
                return bits
    except (AttributeError, RuntimeError):
        pass
    return 0


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
