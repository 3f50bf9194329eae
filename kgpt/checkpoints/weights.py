"""The weights of a model directory as kgpt's own variables: checked first, then read one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.quantized import open_quantized
from kgpt.checkpoints.safetensors_io import (
    SHARD_BYTES,
    TYPES,
    Entry,
    Outgoing,
    open_tensors,
    write_tensors,
)
from kgpt.checkpoints.weight_map import BUFFERS, PREFIXES, Stored, layout
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError

Read = Callable[[str], np.ndarray]  # a variable's path to its value


class Weights:
    """The variables stored in `folder`, by path; making it checks every name, shape and type.

    Raises `CheckpointError` if the files are not what `config` says they are.
    """

    def __init__(self, folder: Path, config: ModelConfig):
        self.folder = folder
        entries = open_quantized(folder) or open_tensors(folder)
        self._stored: dict[str, Stored] = {}
        self._entries: dict[str, Entry] = {}
        used = set()
        for stored in layout(config, model_type_of(config)):
            for name, shape, _ in stored.tensors():
                known = _find(name, entries, folder)
                used.add(known)
                self._entries[name] = _checked(name, entries[known], shape)
            if stored.absent:
                self._check_zero(stored)
            else:
                self._stored[stored.path] = stored
        extra = [name for name in entries if name not in used and not BUFFERS.fullmatch(name)]
        if extra:
            raise CheckpointError(
                f"{folder} holds the tensor {extra[0]}, which has no place in the model that its "
                "config.json describes."
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path and shape of every variable."""
        return {path: stored.shape for path, stored in self._stored.items()}

    @property
    def dtype(self) -> str:
        """The type they are stored in; of several, float32."""
        codes = {entry.code for entry in self._entries.values()}
        return str(TYPES[codes.pop()]) if len(codes) == 1 else "float32"

    def read(self, path: str, dtype: str = "float32") -> np.ndarray:
        """A new array with the variable called `path`, in kgpt's orientation."""
        stored = self._stored[path]
        value = np.empty(stored.shape, np.dtype(dtype))
        for name, shape, start in stored.tensors():
            part = self._entries[name].read().reshape(shape)
            width = shape[0] if stored.transposed else shape[-1]
            value[..., start : start + width] = part.T if stored.transposed else part
        return value

    def tensor(self, name: str) -> np.ndarray:
        """A tensor by its name in the file, in the file's orientation and type."""
        return self._entries[name].read()

    def _check_zero(self, stored: Stored) -> None:
        for name in stored.names:
            if np.any(self._entries[name].read()):
                raise CheckpointError(
                    f"{self.folder} says that its model has no biases, but {name} is not zero."
                )


def write_weights(
    folder: Path, config: ModelConfig, read: Read, dtype: str = "float32", limit: int = SHARD_BYTES
) -> None:
    """Write the weights file of a model directory; `read` is asked for one variable at a time."""

    def outgoing():
        for stored in layout(config, model_type_of(config)):
            for name, shape, start in stored.tensors():
                yield Outgoing(name, shape, _part(stored, shape, start, held))

    held = _Latest(read)
    write_tensors(folder, outgoing(), dtype, limit)


class _Latest:
    """Remembers the variable asked for last: its parts are written one after the other."""

    def __init__(self, read: Read):
        self._read = read
        self._path = ""
        self._value = np.zeros(0)

    def __call__(self, path: str) -> np.ndarray:
        if path != self._path:
            self._value = np.zeros(0)
            self._value, self._path = self._read(path), path
        return self._value


def _part(stored: Stored, shape: tuple[int, ...], start: int, read: Read):
    def make() -> np.ndarray:
        if stored.absent:
            return np.zeros(shape, dtype="float32")
        width = shape[0] if stored.transposed else shape[-1]
        value = read(stored.path)[..., start : start + width]
        return value.T if stored.transposed else value

    return make


def _find(name: str, entries: Mapping[str, Entry], folder: Path) -> str:
    """The key of `entries` for the tensor `name`, which may lack its prefix."""
    if name in entries:
        return name
    for prefix in PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in entries:
            return name.removeprefix(prefix)
    raise CheckpointError(f"{folder} lacks the tensor {name}, which its config.json calls for.")


def _checked(name: str, entry: Entry, shape: tuple[int, ...]) -> Entry:
    if entry.shape != shape:
        raise CheckpointError(
            f"{entry.file} holds {name} with shape {list(entry.shape)}, "
            f"but config.json says {list(shape)}."
        )
    if entry.code not in TYPES:
        raise CheckpointError(
            f"{entry.file} holds {name} as {entry.code}, which is no number format for weights; "
            f"kgpt reads {', '.join(TYPES)}."
        )
    return entry
