"""Peak matmul throughput and memory bandwidth of this machine: what training is compared with."""

from __future__ import annotations

import time

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import Precision, compute_dtype

MAX_PRODUCT_S = 0.1  # a larger product is left out that would take longer


def matmul_peak(precision: Precision = "float32", repeats: int = 5) -> float:
    """The peak FLOP/s of square matrix products in `precision`, which `set_precision` has set.

    Sizes go up to 2048 on CPU and 8192 on GPU; takes about half a second. Slow CPUs and types,
    such as float16 on CPU, stop at smaller sizes.
    """
    size = 256 if backend.device()[0] == "cpu" else 2048
    best = 0.0
    for _ in range(4 if size == 256 else 3):
        seconds = _fastest_product(size, compute_dtype(precision), repeats)
        best = max(best, 2 * size**3 / seconds)
        if 2**3 * seconds > MAX_PRODUCT_S:
            break
        size *= 2
    return best


def memory_bandwidth(repeats: int = 20) -> float:
    """The bytes per second that a sum of two vectors of 64 MiB reads and writes, the best of some.

    As the "add" of STREAM (McCalpin, 1995).
    """
    x = ops.ones((1 << 24,), "float32")
    add = backend.jit(lambda a, b: a + b)
    backend.synchronize(add(x, x))
    best = float("inf")
    for _ in range(repeats):
        y = x + 1.0
        backend.synchronize(y)
        start = time.perf_counter()
        backend.synchronize(add(x, y))
        best = min(best, time.perf_counter() - start)
    return 3 * 4 * (1 << 24) / best


def _fastest_product(size: int, dtype: str, repeats: int) -> float:
    """Seconds for a product of two (size, size) matrices, the best of `repeats`."""
    noise = np.random.default_rng(0).standard_normal((size, size), dtype="float32")
    x = ops.cast(ops.convert_to_tensor(noise), dtype)
    product = backend.jit(backend.dense)
    backend.synchronize(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        backend.synchronize(product(x, x))
        best = min(best, time.perf_counter() - start)
    return best
