"""How positions enter the model: rotary angles for heads, sinusoids for embeddings."""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from kgpt.config import RopeScaling


class Rotary(NamedTuple):
    """Rotary positions: `frequencies` (H / 2,), the angle of each pair a position; `magnitude`,
    how many times larger a turned head is than before."""

    frequencies: np.ndarray
    magnitude: float = 1.0


def rotary_frequencies(width, theta, scaling: RopeScaling | None = None) -> Rotary:
    """The rotary positions of heads of `width` H.

    theta ** (-2i / H), from RoFormer (Su et al., 2021), then stretched as `scaling` says. The rule
    "dynamic" changes nothing up to the model's `max_length`, the longest text that kgpt shows it.
    """
    frequencies = theta ** (-np.arange(0, width, 2, dtype="float64") / width)
    magnitude = 1.0
    if scaling is not None and scaling.type == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling is not None and scaling.type == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif scaling is not None and scaling.type == "yarn":
        frequencies = _yarn(frequencies, theta, scaling)
        magnitude = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
    return Rotary(frequencies.astype("float32"), magnitude)


def _llama3(frequencies, scaling):
    """Llama 3.1's rule: long waves are stretched, short ones are not, those between in part."""
    turns = scaling.original_max_length * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def _yarn(frequencies, theta, scaling):
    """YaRN (Peng et al., 2023): the share kept of each frequency falls along the pairs of a head
    from `beta_fast` turns in the original context to `beta_slow`."""
    half = len(frequencies)

    def pair_with(turns):
        return (
            half * math.log(scaling.original_max_length / (turns * 2 * math.pi)) / math.log(theta)
        )

    first, last = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * half - 1)
    last = last if last != first else first + 0.001
    kept = 1 - np.clip((np.arange(half) - first) / (last - first), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(x, positions, rotary):
    """Turn the halves of each head by position-dependent angles, as Llama does.

    Args:
        x: (B, T, N, H) queries or keys.
        positions: (T,) or (B, T) integers.
        rotary: from `rotary_frequencies`.

    Returns:
        (B, T, N, H) of the type of x; the angles are computed in float32.
    """
    frequencies, magnitude = rotary
    frequencies = ops.convert_to_tensor(frequencies, "float32")
    angles = ops.cast(positions, "float32")[..., None] * frequencies  # (..., T, H / 2)
    cos, sin = ops.cos(angles)[..., None, :], ops.sin(angles)[..., None, :]  # (..., T, 1, H / 2)
    if magnitude != 1.0:
        cos, sin = cos * magnitude, sin * magnitude
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)


def sinusoids(length, width):
    """(length, width): the fixed positions of the first Transformer (Vaswani et al., 2017)."""
    half = (width + 1) // 2
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(half) / half)[None, :]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width].astype("float32")
