"""Model directories stored in int8 or int4, readable on every backend.

- int8: w = scale * q with q in -127..127, per-channel: one scale for each output of a matrix.
- int4: w = scale * q with q in -7..7, group-wise: one scale for each 32 inputs of an output, two q
  a byte. Embeddings and head stay int8, because the logits are most sensitive to their errors.

Vectors (norms, biases) stay float32. A model that is loaded as int8 or int4 takes the numbers of a
directory in that format as they are; any other reading dequantizes to float. What was stored as
float is quantized when it is read as int8 or int4, one matrix at a time.

The file is called `model.int8.safetensors` or `model.int4.safetensors`, so that software which
does not know the format reports missing weights instead of misreading them.
"""

from __future__ import annotations

import json
import math
import mmap
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.checkpoints.safetensors_io import TensorEntry, open_file
from kgpt.checkpoints.weight_map import TensorMapping
from kgpt.config import QuantizedDtype
from kgpt.errors import CheckpointError
from kgpt.files import sha256
from kgpt.model.quantization import (
    GROUP_SIZE,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
)

FILES = {bits: f"model.int{bits}.safetensors" for bits in (8, 4)}
INT8_ONLY = ("token_embedding", "position_embedding", "head", "score")  # never int4
# "x.int4.T" and "x.int4.T.scale" store "x"; T: the unquantized file has this matrix as (in, out).
KEY = re.compile(r"(?P<name>.+)\.int[48](?P<transposed>\.T)?(?P<scale>\.scale)?")
RAW_DTYPES = {"I8": "int8", "U8": "uint8", "F16": "float16", "F32": "float32"}
MAX_ABS = 65504.0  # the largest weight whose scale float16 can represent


# -- writing -----------------------------------------------------------------------------------


def storage_bits(mapping: TensorMapping, shape: tuple[int, ...], bits: int) -> int | None:
    """Bits a weight of one tensor when the model is stored in `bits`; None is float32."""
    if len(shape) < 2:
        return None
    inputs = shape[0] if is_transposed(mapping) else shape[1]
    return 8 if bits == 8 or mapping.path in INT8_ONLY or inputs % GROUP_SIZE else 4


def is_transposed(mapping: TensorMapping) -> bool:
    """Is this matrix (in, out) in the unquantized file? Quantized, it is always (out, in)."""
    return mapping.path not in INT8_ONLY and not mapping.transposed


def stored_bytes(mapping: TensorMapping, shape: tuple[int, ...], bits: int) -> int:
    """Bytes of one tensor when the model is stored in `bits`, scales included."""
    tensor_bits, size = storage_bits(mapping, shape, bits), math.prod(shape)
    if tensor_bits is None:
        return 4 * size
    outputs = shape[1] if is_transposed(mapping) else shape[0]
    return size + 4 * outputs if tensor_bits == 8 else size // 2 + 2 * size // GROUP_SIZE


def quantize_tensor(
    name: str, value: np.ndarray, mapping: TensorMapping, bits: int
) -> dict[str, np.ndarray]:
    """The tensors that replace the tensor `name`: quantized values and scales, by key."""
    tensor_bits = storage_bits(mapping, value.shape, bits)
    if tensor_bits is None:
        return {name: np.array(value, "float32")}
    transposed = is_transposed(mapping)
    q, scale = _quantized(name, value.T if transposed else value, tensor_bits)
    key = f"{name}.int{tensor_bits}{'.T' if transposed else ''}"
    return {key: q, f"{key}.scale": scale}


def _quantized(name: str, matrix: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """`matrix` (out, in) in `bits`: values and scales, as `kgpt.model.quantization` has them."""
    lowest, highest = matrix.min(initial=0.0), matrix.max(initial=0.0)
    if not -MAX_ABS <= lowest <= highest <= MAX_ABS:
        raise CheckpointError(
            f"The tensor {name} has values that are not finite, or above {MAX_ABS:g}."
        )
    return quantize_int4(matrix) if bits == 4 else quantize_int8(matrix)


# -- reading -----------------------------------------------------------------------------------


def quantization_of(folder: Path) -> dict[str, Any] | None:
    """The quantization that config.json declares: bits, group, sha256; None for float weights."""
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        quantization = values["kgpt"]["quantization"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(quantization, dict) or quantization.get("bits") not in FILES:
        raise CheckpointError(
            f"{folder} is stored as {quantization!r}, which this version of kgpt cannot read."
        )
    return quantization


def stored_dtype(folder: Path) -> QuantizedDtype | None:
    """The format of a model directory that is quantized; None for float weights."""
    quantization = quantization_of(folder)
    if quantization is None:
        return None
    return "int8" if quantization["bits"] == 8 else "int4"


@dataclass(frozen=True)
class QuantizedEntry(TensorEntry):
    """A quantized matrix: a `TensorEntry` of float32 that is dequantized when read."""

    q: TensorEntry
    scale: TensorEntry
    transposed: bool

    def read(self) -> np.ndarray:
        dequantize = dequantize_int4 if self.bits == 4 else dequantize_int8
        matrix = dequantize(_raw(self.q), _raw(self.scale))
        return matrix.T if self.transposed else matrix

    @property
    def bits(self) -> int:
        """Bits a weight: 8 or 4."""
        return 4 if self.q.dtype == "U8" else 8


def read_quantized(
    name: str, entry: TensorEntry, mapping: TensorMapping, bits: int
) -> tuple[np.ndarray, np.ndarray]:
    """The matrix of a tensor for a model in `bits`: new arrays of values and scales, by output.

    They are those of the file if it has them, else quantized here. What `storage_bits` says is
    int8 in an int4 model is int8.
    """
    shape = entry.shape
    tensor_bits = storage_bits(mapping, shape, bits)
    assert tensor_bits is not None, f"{name} is no matrix"
    if isinstance(entry, QuantizedEntry) and entry.bits == tensor_bits:
        return _read_copy(entry.q), np.array(_raw(entry.scale))
    value = entry.read()
    return _quantized(name, value.T if is_transposed(mapping) else value, tensor_bits)


def open_quantized(folder: Path) -> dict[str, TensorEntry] | None:
    """Every tensor of a quantized directory by its unquantized name; None for float weights.

    Raises `CheckpointError` if the file is missing or has changed since it was written.
    """
    quantization = quantization_of(folder)
    if quantization is None:
        return None
    file = folder / FILES[quantization["bits"]]
    entries = open_file(file)
    if sha256(file) != quantization.get("sha256"):
        raise CheckpointError(f"{file} is damaged: it has changed since it was written.")
    tensors: dict[str, TensorEntry] = {}
    for key, entry in entries.items():
        match = KEY.fullmatch(key)
        if match is None:
            tensors[key] = entry
        elif not match["scale"]:
            transposed = bool(match["transposed"])
            out, width = entry.shape[0], entry.shape[1] * (2 if entry.dtype == "U8" else 1)
            shape = (width, out) if transposed else (out, width)
            tensors[match["name"]] = QuantizedEntry(
                file, "F32", shape, 0, entry, entries[f"{key}.scale"], transposed
            )
    return tensors


def _read_copy(entry: TensorEntry) -> np.ndarray:
    """A copy in pages of its own, which the system gets back as soon as it is released.

    `malloc` keeps freed memory in a process that trains or serves on TensorFlow; see
    `cli/environment.py`.
    """
    value = _raw(entry)
    pages = mmap.mmap(-1, max(1, value.nbytes))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    copy = np.frombuffer(pages, value.dtype, value.size).reshape(value.shape)
    copy[...] = value
    return copy


def _raw(entry: TensorEntry) -> np.ndarray:
    return np.memmap(entry.file, RAW_DTYPES[entry.dtype], "r", entry.offset, entry.shape)
