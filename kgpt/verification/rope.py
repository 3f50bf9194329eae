"""Rotary frequencies in NumPy, written from the papers and apart from `kgpt.model.attention`."""

from __future__ import annotations

import math

import numpy as np

from kgpt.config import ModelConfig, RopeScaling


def rope_frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Angle per position of each pair (H / 2,), and the factor on the rotated heads.

    RoFormer (Su et al., 2021); "dynamic" scaling changes nothing up to `max_length`.
    """
    half, scaling = config.head_dim // 2, config.rope_scaling
    plain = 1.0 / config.rope_theta ** (np.arange(half) / half)
    if scaling is None or scaling.type == "dynamic":
        return plain, 1.0
    if scaling.type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.type == "llama3":
        return _llama3(plain, scaling), 1.0
    magnitude = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1.0
    return _yarn(plain, config.rope_theta, scaling), magnitude


def _llama3(plain: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1: by wavelength, unchanged, interpolated or divided by the factor."""
    original = scaling.original_max_length or 1
    wavelength = 2 * math.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * plain / scaling.factor + smooth * plain
    scaled = np.where(wavelength > original / low, plain / scaling.factor, between)
    return np.where(wavelength < original / high, plain, scaled)


def _yarn(plain: np.ndarray, theta: float, scaling: RopeScaling) -> np.ndarray:
    """YaRN (Peng et al., 2023), equations 17 to 23: a ramp between two numbers of turns."""
    dim, original = 2 * len(plain), scaling.original_max_length or 1

    def dimension_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low or 0.001), 0, 1)
    return plain / scaling.factor * ramp + plain * (1 - ramp)
