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

from kgpt.checkpoints.safetensors_io import Entry, open_file
from kgpt.checkpoints.weight_map import Stored
from kgpt.errors import CheckpointError
from kgpt.files import sha256
from kgpt.model.quantization import GROUP_SIZE, dequantize_int4, dequantize_int8

FILES = {bits: f"model.int{bits}.safetensors" for bits in (8, 4)}
INT8_ONLY = ("token_embedding", "position_embedding", "head")  # never below 8 bits
# "x.int4.T" and "x.int4.T.scale" hold "x"; T: other software stores this matrix (in, out).
KEY = re.compile(r"(?P<name>.+)\.int[48](?P<flipped>\.T)?(?P<scale>\.scale)?")
RAW = {"I8": "int8", "U8": "uint8", "F16": "float16", "F32": "float32"}


# -- which weights become what -----------------------------------------------------------------


def bits_of(stored: Stored, shape: tuple[int, ...], bits: int) -> int | None:
    """In how many bits a tensor of this shape is kept when the model is: None is float32."""
    if len(shape) < 2:
        return None
    inputs = shape[0] if is_transposed(stored) else shape[1]
    return 8 if bits == 8 or stored.path in INT8_ONLY or inputs % GROUP_SIZE else 4


def is_transposed(stored: Stored) -> bool:
    """Does the original file store this matrix (in, out)? Here it is always (out, in)."""
    return stored.path not in INT8_ONLY and not stored.transposed


def stored_bytes(stored: Stored, shape: tuple[int, ...], bits: int) -> int:
    """Bytes of a tensor of this shape when the model is kept in `bits` bits, scales included."""
    kept, size = bits_of(stored, shape, bits), math.prod(shape)
    if kept is None:
        return 4 * size
    outputs = shape[1] if is_transposed(stored) else shape[0]
    return size + 4 * outputs if kept == 8 else size // 2 + 2 * size // GROUP_SIZE


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
class QuantizedEntry(Entry):
    """A quantized matrix: as an `Entry` of float32 that is computed when it is read."""

    q: Entry
    scale: Entry
    flipped: bool

    def read(self) -> np.ndarray:
        restore = dequantize_int4 if self.q.code == "U8" else dequantize_int8
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
            tensors[name] = QuantizedEntry(
                file, "F32", shape, 0, entry, entries[f"{key}.scale"], flipped
            )
    return tensors


def _raw(entry: Entry) -> np.ndarray:
    return np.memmap(entry.file, RAW[entry.code], "r", entry.offset, entry.shape)
