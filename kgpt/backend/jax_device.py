"""JAX on its device: the precision of matrix products, and memory."""

from __future__ import annotations

import jax

from kgpt.config import InferenceDtype

# Without it XLA multiplies float32 matrices in TF32 on NVIDIA GPUs and in bfloat16 on TPUs. Half
# precisions keep that default, so that their own products carry no attribute.
MATMUL_PRECISION = {"float32": "highest", "int8": "highest", "tensorfloat32": "tensorfloat32"}


def set_precision(precision: InferenceDtype) -> None:
    """Multiply float32 matrices as `precision` says, in the whole process."""
    jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION.get(precision))


def limit_memory(fraction: float) -> None:
    """Do nothing: XLA reads its limit from the environment, which `kgpt.cli.environment` sets."""


def device_memory() -> int | None:
    """Bytes of the device's memory that this process may use; None on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit")
