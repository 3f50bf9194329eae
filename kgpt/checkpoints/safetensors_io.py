"""Named tensors in safetensors files: one file, or several with an index.

Reading memory-maps one tensor at a time; writing holds one at a time. No model and no Keras here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from kgpt.errors import CheckpointError
from kgpt.files import describe_damage, write_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000  # the default of transformers too
NUMPY_DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype("bfloat16"),
}
SAFETENSORS_DTYPES = {str(dtype): name for name, dtype in NUMPY_DTYPES.items()} | {
    "float64": "F64", "int64": "I64", "int32": "I32", "uint32": "U32", "bool": "BOOL"
}  # fmt: skip

ALL_DTYPES = {code: np.dtype(name) for name, code in SAFETENSORS_DTYPES.items()}

assert NUMPY_DTYPES["BF16"] == ml_dtypes.bfloat16  # importing ml_dtypes registers it with NumPy


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file: its safetensors dtype such as "F32", shape, and byte offset."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor, read-only, memory-mapped for as long as the array lives."""
        if 0 in self.shape:
            return np.zeros(self.shape, ALL_DTYPES[self.dtype])
        return np.memmap(self.file, ALL_DTYPES[self.dtype], "r", self.offset, self.shape or (1,))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * ALL_DTYPES[self.dtype].itemsize


def index_file(whole: str) -> str:
    """The index of the files that are there in place of one `whole`."""
    return f"{whole}.index.json"


def open_tensors(folder: Path, whole: str = WEIGHTS_FILE) -> dict[str, TensorEntry]:
    """Every tensor of a model directory by name; only the headers are read.

    Args:
        whole: the file that has them all, or whose index says which files have them.

    Raises `CheckpointError` if a file is missing or damaged.
    """
    if not (folder / whole).is_file() and (folder / index_file(whole)).is_file():
        return _open_shards(folder / index_file(whole))
    if not (folder / whole).is_file() and any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} has its weights as pickles, which can run code and are not read; "
            "get the model as safetensors."
        )
    return open_file(folder / whole)


def _open_shards(index: Path) -> dict[str, TensorEntry]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(describe_damage(index, "it has no weight_map")) from None
    if any(not isinstance(name, str) or name != Path(name).name for name in files):
        raise CheckpointError(f"{index} names files outside its folder.")
    entries: dict[str, TensorEntry] = {}
    for name in files:
        entries |= open_file(index.parent / name)
    if missing := [name for name in weight_map if name not in entries]:
        raise CheckpointError(f"{index} lists {missing[0]}, which no file contains.")
    return entries


def open_file(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file by name; only its header is read."""
    try:
        with safe_open(file, framework="np"):  # checks that header and size agree
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(describe_damage(file, error)) from None
    header.pop("__metadata__", None)
    return {
        name: TensorEntry(
            file, info["dtype"], tuple(info["shape"]), 8 + size + info["data_offsets"][0]
        )
        for name, info in header.items()
    }


@dataclass(frozen=True)
class LazyTensor:
    """A tensor to write; `load` is called when its turn comes."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


def write_tensors(
    folder: Path,
    tensors: Iterable[LazyTensor],
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write `tensors` as `dtype` to one file, or to several of at most `max_shard_bytes` each."""
    itemsize = np.dtype(dtype).itemsize
    shards: list[list[LazyTensor]] = [[]]
    shard_bytes = total_bytes = 0
    for tensor in tensors:
        size = int(np.prod(tensor.shape)) * itemsize
        if shards[-1] and shard_bytes + size > max_shard_bytes:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(tensor)
        shard_bytes, total_bytes = shard_bytes + size, total_bytes + size
    if len(shards) == 1:
        return write_file(folder / WEIGHTS_FILE, shards[0], dtype)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / name, shard, dtype)
        weight_map |= {tensor.name: name for tensor in shard}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    write_json(folder / INDEX_FILE, index)


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to one safetensors file, each in its own dtype; none is copied."""
    # The widest first, as the safetensors library does, so that each is aligned.
    ordered = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    with file.open("wb") as stream:
        _write_header(stream, [(name, x.shape, x.dtype) for name, x in ordered.items()])
        for value in ordered.values():
            _write_data(stream, value)


def write_file(file: Path, tensors: list[LazyTensor], dtype: str = "float32") -> None:
    """Write tensors as `dtype` to one file."""
    numpy_dtype = np.dtype(dtype)
    with file.open("wb") as stream:
        _write_header(stream, [(t.name, t.shape, numpy_dtype) for t in tensors])
        for tensor in tensors:
            value = np.asarray(tensor.load(), dtype=numpy_dtype)
            if value.shape != tensor.shape:
                raise ValueError(f"{tensor.name} is {value.shape}, not {tensor.shape}")
            _write_data(stream, value)


def _write_header(
    stream: BinaryIO, tensors: Iterable[tuple[str, tuple[int, ...], np.dtype]]
) -> None:
    """Names, shapes and dtypes of the tensors that follow, in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape, dtype in tensors:
        start, end = end, end + int(np.prod(shape)) * dtype.itemsize
        code = SAFETENSORS_DTYPES[str(dtype)]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)


def _write_data(stream: BinaryIO, value: np.ndarray) -> None:
    stream.write(np.ascontiguousarray(value).reshape(-1).view("uint8").data)
