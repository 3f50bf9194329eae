"""Choices that depend on the memory of the device."""

from __future__ import annotations

import os

from kgpt.config.precision import Precision, compute_dtype
from kgpt.errors import UsageError

MEMORY_FRACTION = "KGPT_MEMORY_FRACTION"  # the environment variable of --memory-fraction
CPU_LOSS_CHUNK = 4096
MIN_LOSS_CHUNK, MAX_LOSS_CHUNK = 1024, 32768
LOGITS_SHARE = 4  # a chunk of logits and their gradients take up to a quarter of the memory


def memory_fraction() -> float | None:
    """The fraction of `KGPT_MEMORY_FRACTION`; None if it is not set.

    Raises:
        UsageError: it is not a number above 0 and up to 1.
    """
    text = os.environ.get(MEMORY_FRACTION)
    if not text:
        return None
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UsageError(f"{MEMORY_FRACTION} should be above 0 and at most 1, not {text!r}.")
    return fraction


def default_loss_chunk(vocab_size: int, precision: Precision, memory: int | None) -> int:
    """Tokens per chunk of the cross-entropy where `train.loss_chunk` is not given.

    Larger chunks are faster on a GPU. A token takes its logits in float32, and twice their gradient
    in the compute dtype. Free memory plays no part, so that a resumed run has the same chunks.

    Args:
        memory: bytes of the GPU's memory that the process may use; None on a CPU.
    """
    if memory is None:
        return CPU_LOSS_CHUNK
    itemsize = 4 if compute_dtype(precision) == "float32" else 2
    fitting = memory // LOGITS_SHARE // (vocab_size * (4 + 2 * itemsize))
    power_of_two = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power_of_two, MIN_LOSS_CHUNK), MAX_LOSS_CHUNK)
