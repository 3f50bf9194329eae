"""Curves made small enough to draw: smoothing, cropping and downsampling with numpy."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Curve = tuple[Array, Array]  # steps and values, float64, of equal length


def smooth(values: Array, weight: float) -> Array:
    """Exponential moving average with Adam's bias correction.

    Computed block by block: within a block it is a cumulative sum of values divided by powers of
    `weight`, and blocks are short enough for these not to underflow.

    >>> smooth(np.array([2.0, 2.0, 2.0]), 0.9).round(6).tolist()
    [2.0, 2.0, 2.0]
    """
    if not weight or not len(values):
        return values
    block = max(1, int(math.log(1e-12) / math.log(weight)))
    powers = weight ** np.arange(block)
    padded = np.append(values * (1 - weight), np.zeros(-len(values) % block)).reshape(-1, block)
    sums = np.cumsum(padded / powers, axis=1) * powers  # (blocks, block), each from zero
    carried = accumulate(sums[:-1, -1].tolist(), lambda total, x: total * weight**block + x)
    sums[1:] += np.fromiter(carried, float)[:, None] * powers * weight
    return sums.ravel()[: len(values)] / (1 - weight ** np.arange(1, len(values) + 1))


def crop(curve: Curve, low: float, high: float) -> Curve:
    """The part of a curve with steps in [low, high], and one more point on either side."""
    steps, values = curve
    first = max(0, int(np.searchsorted(steps, low, "left")) - 1)
    end = int(np.searchsorted(steps, high, "right")) + 1
    return steps[first:end], values[first:end]


def minmax_downsample(curve: Curve, buckets: int) -> Curve:
    """At most 2 x `buckets` points: the minimum and maximum of each bucket, so peaks survive."""
    steps, values = curve
    if len(steps) <= 2 * buckets:
        return curve
    edges = np.linspace(0, len(steps), buckets, endpoint=False).astype(int)
    lows, highs = np.minimum.reduceat(values, edges), np.maximum.reduceat(values, edges)
    rising = values[edges] <= lows + (highs - lows) / 2  # the nearer to the first value first
    pairs = np.where(rising, (lows, highs), (highs, lows)).T  # (buckets, 2)
    return np.repeat(steps[edges], 2), pairs.ravel()


def mean_downsample(curve: Curve, buckets: int) -> Curve:
    """At most `buckets` points: the mean of each bucket."""
    steps, values = curve
    if len(steps) <= buckets:
        return curve
    edges = np.linspace(0, len(steps), buckets, endpoint=False).astype(int)
    counts = np.diff(np.append(edges, len(steps)))
    return (np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts)
