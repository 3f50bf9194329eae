"""TensorFlow on its device: the precision of matrix products, and memory."""

from __future__ import annotations

import ctypes

import tensorflow as tf

from kgpt.config import InferenceDtype, allows_tf32, memory_fraction
from kgpt.errors import UsageError


def set_precision(precision: InferenceDtype) -> None:
    """Multiply float32 matrices as `precision` says, in the whole process."""
    tf.config.experimental.enable_tensor_float_32_execution(allows_tf32(precision))


def limit_memory(fraction: float) -> None:
    """Use at most `fraction` of the GPU's memory; to be called before the first tensor.

    Raises:
        UsageError: the driver does not tell how much memory the GPU has.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return
    total = total_memory()
    if total is None:
        raise UsageError(
            "The GPU's driver does not tell how much memory there is; leave --memory-fraction out."
        )
    limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(total * fraction) >> 20)  # MiB
    tf.config.set_logical_device_configuration(gpus[0], [limit])


def device_memory() -> int | None:
    """Bytes of the GPU's memory that this process may use; None on a CPU."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    total = total_memory()
    return None if total is None else int(total * (memory_fraction() or 1))


def total_memory() -> int | None:
    """Bytes of the first visible GPU's memory, by CUDA's driver, since TensorFlow tells no total.

    See cuDeviceTotalMem in the CUDA Driver API.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, total = ctypes.c_int(), ctypes.c_size_t()
    failed = cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0)
    failed = failed or cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    return None if failed else total.value
