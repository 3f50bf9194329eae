"""Quantization of a model's weights, and of matrices in numpy: int8 per channel, int4 group-wise.

- int8: w = scale * q with q in -127..127 and one float32 scale per output channel.
- int4: w = scale * q with q in -7..7 and one float16 scale per group of 32 inputs, two q per byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from kgpt.model.gpt import GPT

GROUP_SIZE = 32  # inputs that share an int4 scale
ROWS = 1024  # outputs that are quantized at once
CLIP_RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8)  # int4: candidate clipping of each group's largest weight


def quantize(model: GPT, weight_format: Literal["int8", "int4"] = "int8") -> None:
    """Store a model's matrices as int8 or int4, each one's float weights being released in turn.

    The model can then be neither trained nor saved, but `kgpt.add_lora` trains adapters on it.
    """
    model.convert_weights(weight_format)


def prepare_for_inference(model: GPT) -> None:
    """Transpose or prepack a model's matrices where the backend computes small batches faster so.

    The model can then be neither trained nor saved.
    """
    from kgpt import backend  # model files and `kgpt info` read this module without Keras

    if backend.prefers_transposed_weights():
        model.convert_weights("transposed")


def quantize_int8(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (out, in) as int8 (out, in) and scales (out, 1) float32.

    No weight moves by more than half a scale, which is the row's largest weight / 127.

    >>> q, scale = quantize_int8(np.array([[1.0, -2.0, 0.5]], "float32"))
    >>> q.tolist(), round(float(scale[0, 0]), 4)
    ([[64, -127, 32]], 0.0157)
    """
    highest, lowest = (f(axis=1, keepdims=True, initial=0.0) for f in (matrix.max, matrix.min))
    scale = _nonzero(np.maximum(highest, -lowest).astype("float32") / 127)
    q = np.empty(matrix.shape, "int8")
    for start in range(0, len(matrix), ROWS):  # an embedding is large
        part = slice(start, start + ROWS)
        q[part] = np.clip(np.rint(matrix[part] / scale[part]), -127, 127)
    return q, scale


def quantize_int4(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (out, in) as bytes (out, in / 2) and scales (out, in / 32) float16.

    `in` must be a multiple of 32. Of a few scales each group takes the one that moves its weights
    least, by the sum of squares. The low half of a byte is the even input.
    """
    out, width = matrix.shape
    q = np.empty((out, width // 2), "uint8")
    scale = np.empty((out, width // GROUP_SIZE), "float16")
    for start in range(0, out, ROWS):
        part = slice(start, start + ROWS)
        q[part], scale[part] = _int4_rows(matrix[part])
    return q, scale


def _int4_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`quantize_int4` of some outputs."""
    out, width = matrix.shape
    groups = matrix.reshape(out, width // GROUP_SIZE, GROUP_SIZE).astype("float32")
    largest = np.abs(groups).max(axis=2, keepdims=True, initial=0.0)
    best = np.full(largest.shape, np.inf, "float32")
    chosen = np.zeros(largest.shape, "float16")
    for shrink in CLIP_RATIOS:
        scale = _above(largest * shrink / 7)
        error = groups - _rounded(groups, scale) * scale.astype("float32")
        squares = np.square(error).sum(axis=2, keepdims=True)
        better = squares < best
        best, chosen = np.where(better, squares, best), np.where(better, scale, chosen)
    codes = (_rounded(groups, chosen) + 8).astype("uint8").reshape(out, width)
    return codes[:, 0::2] | codes[:, 1::2] << 4, chosen[:, :, 0]


def dequantize_int8(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 matrix (out, in) that `quantize_int8` came closest to."""
    return q * scale


def dequantize_int4(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 matrix (out, in) that `quantize_int4` came closest to."""
    out, width = packed.shape[0], packed.shape[1] * 2
    q = np.empty((out, width), "float32")
    q[:, 0::2] = packed & 15
    q[:, 1::2] = packed >> 4
    groups = (q - 8).reshape(out, width // GROUP_SIZE, GROUP_SIZE)
    return (groups * scale.astype("float32")[:, :, None]).reshape(out, width)


def _rounded(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(groups / scale.astype("float32")), -7, 7)


def _above(scale: np.ndarray) -> np.ndarray:
    """The float16 next to `scale` from above, so that rounding clips nothing by itself."""
    near = _nonzero(scale.astype("float16"))
    return np.where(near < scale, np.nextafter(near, np.float16(np.inf)), near)


def _nonzero(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.ones_like(scale), scale)
