"""How positions enter the model: rotary angles for heads, sinusoids for embeddings."""

import numpy as np
from keras import ops


def rotary_frequencies(width, theta):
    """Angle per position of each pair of a head: (H / 2,) float32.

    theta ** (-2i / H), from RoFormer (Su et al., 2021).
    """
    return (theta ** (-np.arange(0, width, 2, dtype="float64") / width)).astype("float32")


def rotate(x, positions, frequencies):
    """Turn the halves of each head by position-dependent angles, as Llama does.

    Args:
        x: (B, T, N, H) queries or keys.
        positions: (T,) or (B, T) integers.
        frequencies: (H / 2,) from `rotary_frequencies`.

    Returns:
        (B, T, N, H) of the type of x; the angles are computed in float32.
    """
    angles = ops.cast(positions, "float32")[..., None] * frequencies  # (..., T, H / 2)
    cos, sin = ops.cos(angles)[..., None, :], ops.sin(angles)[..., None, :]  # (..., T, 1, H / 2)
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)


def sinusoids(length, width):
    """Fixed position embeddings of the first Transformer (Vaswani et al., 2017): (length, width)."""
    half = (width + 1) // 2
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width].astype("float32")
