"""Named tensors on disk: safetensors files, one or several with an index.

Reading maps one tensor at a time into memory, writing holds one at a time. Nothing here knows what
the tensors mean, and nothing here imports Keras.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from kgpt.errors import CheckpointError
from kgpt.files import write_json

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000  # as large as one file gets; the size that others also use
TYPES: dict[str, np.dtype] = {
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype("bfloat16"),
}
CODES = {str(kind): code for code, kind in TYPES.items()}

assert TYPES["BF16"] == ml_dtypes.bfloat16  # importing ml_dtypes is what tells NumPy of it


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its file, type code such as "F32", shape, and first byte."""

    file: Path
    code: str
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor, mapped into memory for as long as the array lives; it cannot be written."""
        if 0 in self.shape:
            return np.zeros(self.shape, TYPES[self.code])
        return np.memmap(self.file, TYPES[self.code], "r", self.offset, self.shape or (1,))


def open_tensors(folder: Path) -> dict[str, Entry]:
    """Every tensor of a model directory by its name; nothing is read but the headers.

    Raises `CheckpointError` if a file is missing or damaged.
    """
    if not (folder / ONE_FILE).is_file() and (folder / INDEX).is_file():
        return _open_shards(folder)
    if not (folder / ONE_FILE).is_file() and any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder} holds its weights as pickles, which can run code and are not read; "
            "get the model as safetensors."
        )
    return open_file(folder / ONE_FILE)


def _open_shards(folder: Path) -> dict[str, Entry]:
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / INDEX} is damaged.") from None
    if any(not isinstance(name, str) or name != Path(name).name for name in names):
        raise CheckpointError(f"{folder / INDEX} names files outside its folder.")
    found: dict[str, Entry] = {}
    for name in names:
        found |= open_file(folder / name)
    if lost := [name for name in places if name not in found]:
        raise CheckpointError(f"{folder / INDEX} lists {lost[0]}, which no file holds.")
    return found


def open_file(file: Path) -> dict[str, Entry]:
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
        raise CheckpointError(f"{file} is damaged: {error}.") from None
    header.pop("__metadata__", None)
    return {
        name: Entry(
            file, facts["dtype"], tuple(facts["shape"]), 8 + size + facts["data_offsets"][0]
        )
        for name, facts in header.items()
    }


@dataclass(frozen=True)
class Outgoing:
    """A tensor to be written: `make` is called when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_tensors(
    folder: Path, tensors: Iterable[Outgoing], dtype: str = "float32", limit: int = SHARD_BYTES
) -> None:
    """Write `tensors` as `dtype` into one file, or into several of at most `limit` bytes each."""
    width = TYPES[CODES[dtype]].itemsize
    shards: list[list[Outgoing]] = [[]]
    filled = total = 0
    for tensor in tensors:
        size = int(np.prod(tensor.shape)) * width
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled, total = filled + size, total + size
    if len(shards) == 1:
        return _write_file(folder / ONE_FILE, shards[0], dtype)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / name, shard, dtype)
        places |= {tensor.name: name for tensor in shard}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _write_file(file: Path, tensors: list[Outgoing], dtype: str) -> None:
    kind = TYPES[CODES[dtype]]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + int(np.prod(tensor.shape)) * kind.itemsize
        header[tensor.name] = {
            "dtype": CODES[dtype], "shape": list(tensor.shape), "data_offsets": [start, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            value = np.ascontiguousarray(tensor.make(), dtype=kind)
            if value.shape != tensor.shape:
                raise ValueError(f"{tensor.name} is {value.shape}, not {tensor.shape}")
            stream.write(value.reshape(-1).view("uint8").data)
