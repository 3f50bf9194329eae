"""Dropout on PyTorch, with an explicit key."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import torch

Tensor = Any


def dropout(x: Tensor, rate: float, key: Tensor) -> Tensor:
    """Dropout whose mask is a function of `key`, two int32.

    On CPU PyTorch's generator makes it, faster than a hash but not in compiled code; elsewhere a
    hash, because a generator's seed would have to be copied from the device.
    """
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        kept = _bernoulli(x, 1.0 - rate, key)
    else:
        kept = (_hash(x, key) >= int(rate * 2**31)).to(x.dtype)
    return x * kept.div_(1.0 - rate)


def _bernoulli(x: Tensor, probability: float, key: Tensor) -> Tensor:
    """Ones with that probability, else zeros, in the shape of x."""
    # Hashed, because the CPU generator uses only the lowest 32 bits of its seed.
    packed = struct.pack("<2i", *(int(part) for part in key))
    seed = int.from_bytes(hashlib.blake2b(packed, digest_size=7).digest(), "little")
    generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(probability, generator=generator)


def _hash(x: Tensor, key: Tensor) -> Tensor:
    """An int32 below 2**31 for each element of x: `lowbias32` (Wellons, 2018) of index and key."""
    bits = torch.arange(x.numel(), device=x.device).view(x.shape).to(torch.int32)
    for part in key:
        bits = bits ^ part
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B - 2**32)):
            bits = (bits ^ (bits >> shift & 2 ** (32 - shift) - 1)) * factor
        bits = bits ^ (bits >> 16 & 0xFFFF)
    return bits & 0x7FFFFFFF
