"""How fast this machine multiplies matrices: the yardstick for training speed."""

import time

import numpy as np
from keras import ops

from kgpt import backend


def matmul_peak(dtype="float32", repeats=5):
    """The best rate of a square matrix product in `dtype`, in floating-point operations a second.

    2048 wide on a processor, 8192 on an accelerator; takes about half a second.
    """
    size = 2048 if backend.device()[0] == "cpu" else 8192
    noise = np.random.default_rng(0).standard_normal((size, size), dtype="float32")
    x = ops.cast(ops.convert_to_tensor(noise), dtype)
    product = backend.compiled(backend.dense)
    backend.synchronise(product(x, x))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        backend.synchronise(product(x, x))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
