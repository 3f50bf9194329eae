"""PyTorch on its device: the precision of matrix products."""

from __future__ import annotations

import torch

from kgpt.config import InferenceDtype, allows_tf32


def set_precision(precision: InferenceDtype) -> None:
    """Multiply float32 matrices as `precision` says, in the whole process.

    TF32 is allowed on CUDA alone: `set_float32_matmul_precision("high")` would allow it on CPU too.
    """
    tf32 = allows_tf32(precision)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
