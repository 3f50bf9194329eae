"""How fast this machine multiplies matrices: the yardstick for training speed."""

import time

import numpy as np
from keras import ops

from kgpt import backend

SLOW_S = 0.05  # a product that takes so long is large enough to measure


def matmul_peak(dtype="float32", repeats=5):
    """The best rate of a square matrix product in `dtype`, in floating-point operations a second.

    Up to 2048 wide on a processor, 8192 on an accelerator; takes about half a second. Where a type
    is slow, as float16 is on processors, smaller products must do.
    """
    size = 256 if backend.device()[0] == "cpu" else 2048
    best = 0.0
    for _ in range(4 if size == 256 else 3):
        seconds = _fastest_product(size, dtype, repeats)
        best = max(best, 2 * size**3 / seconds)
        if seconds > SLOW_S:
            break
        size *= 2
    return best


def _fastest_product(size, dtype, repeats):
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
