"""Model directories whose weights are stored in 8 or 4 bits; every backend reads them.

- int8: w = scale * q with q in -127..127, one scale for each output of a matrix.
- int4: w = scale * q with q in -7..7, one scale for each 32 inputs of an output, two q to a byte.
  The embeddings and the head stay int8: their rows are outputs of the last, most delicate product.

Vectors (norms, biases) stay float32. This is storage only: reading gives float weights. A model
that is held in 8 bits while it writes is made by `model/holding.py`, whatever it was stored in.

The file is called `model.int8.safetensors` or `model.int4.safetensors`, so that software which
does not know it says that there are no weights, in place of reading nonsense.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.errors import CheckpointError
from kgpt.files import sha256
from kgpt.model.layouts import Stored
from kgpt.model.storage import Entry, open_file

FILES = {bits: f"model.int{bits}.safetensors" for bits in (8, 4)}
GROUP = 32  # inputs that share a scale in 4 bits
SHRINK = (1.0, 0.95, 0.9, 0.85, 0.8)  # scales tried in 4 bits: clipping the largest may pay
DELICATE = ("token_embedding", "position_embedding", "head")  # never below 8 bits
# "x.int4.T" and "x.int4.T.scale" hold "x"; T: other software stores this matrix (in, out).
KEY = re.compile(r"(?P<name>.+)\.int[48](?P<flipped>\.T)?(?P<scale>\.scale)?")
RAW = {"I8": "int8", "U8": "uint8", "F16": "float16", "F32": "float32"}


# -- arithmetic --------------------------------------------------------------------------------


def to_int8(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (out, in) as int8 (out, in) and scales (out, 1) float32.

    No weight moves by more than half a scale, which is the row's largest weight / 127.

    >>> q, scale = to_int8(np.array([[1.0, -2.0, 0.5]], "float32"))
    >>> q.tolist(), round(float(scale[0, 0]), 4)
    ([[64, -127, 32]], 0.0157)
    """
    highest, lowest = (f(axis=1, keepdims=True, initial=0.0) for f in (matrix.max, matrix.min))
    scale = _nonzero(np.maximum(highest, -lowest).astype("float32") / 127)
    codes = matrix / scale  # an embedding is large: all else is done in its place
    return np.clip(np.rint(codes, out=codes), -127, 127, out=codes).astype("int8"), scale


def to_int4(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (out, in) as bytes (out, in / 2) and scales (out, in / 32) float16.

    `in` must be a multiple of 32. Of a few scales each group takes the one that moves its weights
    least, by the sum of squares. The low half of a byte is the even input.
    """
    out, width = matrix.shape
    groups = matrix.reshape(out, width // GROUP, GROUP).astype("float32")
    largest = np.abs(groups).max(axis=2, keepdims=True, initial=0.0)
    best = np.full(largest.shape, np.inf, "float32")
    chosen = np.zeros(largest.shape, "float16")
    for shrink in SHRINK:
        scale = _above(largest * shrink / 7)
        error = groups - _rounded(groups, scale) * scale.astype("float32")
        squares = np.square(error).sum(axis=2, keepdims=True)
        better = squares < best
        best, chosen = np.where(better, squares, best), np.where(better, scale, chosen)
    codes = (_rounded(groups, chosen) + 8).astype("uint8").reshape(out, width)
    return codes[:, 0::2] | codes[:, 1::2] << 4, chosen[:, :, 0]


def from_int8(q: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 matrix (out, in) that `to_int8` came closest to."""
    return q * scale


def from_int4(packed: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The float32 matrix (out, in) that `to_int4` came closest to."""
    out, width = packed.shape[0], packed.shape[1] * 2
    q = np.empty((out, width), "float32")
    q[:, 0::2] = packed & 15
    q[:, 1::2] = packed >> 4
    groups = (q - 8).reshape(out, width // GROUP, GROUP)
    return (groups * scale.astype("float32")[:, :, None]).reshape(out, width)


def _rounded(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(groups / scale.astype("float32")), -7, 7)


def _above(scale: np.ndarray) -> np.ndarray:
    """The float16 next to `scale` from above, so that rounding clips nothing by itself."""
    near = _nonzero(scale.astype("float16"))
    return np.where(near < scale, np.nextafter(near, np.float16(np.inf)), near)


def _nonzero(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0, np.ones_like(scale), scale)


# -- which weights become what -----------------------------------------------------------------


def bits_of(stored: Stored, shape: tuple[int, ...], bits: int) -> int | None:
    """In how many bits a tensor of this shape is kept when the model is: None is float32."""
    if len(shape) < 2:
        return None
    inputs = shape[0] if is_flipped(stored) else shape[1]
    return 8 if bits == 8 or stored.path in DELICATE or inputs % GROUP else 4


def is_flipped(stored: Stored) -> bool:
    """Does the original file store this matrix (in, out)? Here it is always (out, in)."""
    return stored.path not in DELICATE and not stored.transposed


def stored_bytes(stored: Stored, shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a tensor of this shape when the model is kept in `bits` bits, scales included."""
    kept, size = bits_of(stored, shape, bits), math.prod(shape)
    if kept is None:
        return 4 * size
    outputs = shape[1] if is_flipped(stored) else shape[0]
    return size + 4 * outputs if kept == 8 else size // 2 + 2 * size // GROUP


# -- directories -------------------------------------------------------------------------------


def quantization_of(folder: Path) -> dict[str, Any] | None:
    """What config.json says of a quantized directory's storage; None if it is not quantized."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        facts = values["kgpt"]["quantization"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(facts, dict) or facts.get("bits") not in FILES:
        raise CheckpointError(
            f"{folder} is stored as {facts!r}, which this version of kgpt cannot read."
        )
    return facts


@dataclass(frozen=True)
class Packed(Entry):
    """A quantized matrix: as an `Entry` of float32 that is computed when it is read."""

    q: Entry
    scale: Entry
    flipped: bool

    def read(self) -> np.ndarray:
        restore = from_int4 if self.q.code == "U8" else from_int8
        matrix = restore(_raw(self.q), _raw(self.scale))
        return matrix.T if self.flipped else matrix


def open_quantized(folder: Path) -> dict[str, Entry] | None:
    """Every tensor of a quantized directory by the name it had before; None if it is not one.

    Raises `CheckpointError` if the file is missing or not the one that was written.
    """
    facts = quantization_of(folder)
    if facts is None:
        return None
    file = folder / FILES[facts["bits"]]
    entries = open_file(file)
    if sha256(file) != facts.get("sha256"):
        raise CheckpointError(f"{file} is damaged: it has changed since it was written.")
    tensors: dict[str, Entry] = {}
    for key, entry in entries.items():
        match = KEY.fullmatch(key)
        if match is None:
            tensors[key] = entry
        elif not match["scale"]:
            name, flipped = match["name"], bool(match["flipped"])
            out, width = entry.shape[0], entry.shape[1] * (2 if entry.code == "U8" else 1)
            shape = (width, out) if flipped else (out, width)
            tensors[name] = Packed(file, "F32", shape, 0, entry, entries[f"{key}.scale"], flipped)
    return tensors


def _raw(entry: Entry) -> np.ndarray:
    return np.memmap(entry.file, RAW[entry.code], "r", entry.offset, entry.shape)
