"""PyTorch on its device: the precision of matrix products, and memory."""

from __future__ import annotations

import torch

from kgpt.config import InferenceDtype, allows_tf32, memory_fraction


def set_precision(precision: InferenceDtype) -> None:
    """Multiply float32 matrices as `precision` says, in the whole process.

    TF32 is allowed on CUDA alone: `set_float32_matmul_precision("high")` would allow it on CPU too.
    """
    tf32 = allows_tf32(precision)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def limit_memory(fraction: float) -> None:
    """Use at most `fraction` of the GPU's memory."""
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(fraction)


def device_memory() -> int | None:
    """Bytes of the GPU's memory that this process may use; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    _, total = torch.cuda.mem_get_info()
    return int(total * (memory_fraction() or 1))
