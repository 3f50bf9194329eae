"""Read and write the weights of a model directory, one variable at a time, after validation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from kgpt.checkpoints.hf_config import model_type_of
from kgpt.checkpoints.parts import Part
from kgpt.checkpoints.peft_format import PeftAdapter, base_folder, is_adapter
from kgpt.checkpoints.quantized import open_quantized, read_quantized
from kgpt.checkpoints.safetensors_io import (
    MAX_SHARD_BYTES,
    NUMPY_DTYPES,
    WEIGHTS_FILE,
    LazyTensor,
    TensorEntry,
    open_tensors,
    write_file,
    write_tensors,
)
from kgpt.checkpoints.weight_map import BUFFERS, PREFIXES, TensorMapping, tensor_mappings
from kgpt.config import ModelConfig
from kgpt.errors import CheckpointError

ReadVariable = Callable[[str], np.ndarray]  # from a variable's path to its value


class Weights:
    """The variables stored in `folder`, by path; the constructor checks names, shapes and dtypes.

    The folder of an adapter gives the weights of its base model with the adapter merged.

    Args:
        num_labels: of a classifier.

    Raises `CheckpointError` if the files do not match `config`.
    """

    def __init__(self, folder: Path, config: ModelConfig, num_labels: int | None = None):
        adapter = PeftAdapter(folder, config) if is_adapter(folder) else None
        self.folder = folder = base_folder(folder)
        entries = open_quantized(folder) or open_tensors(folder)
        self._mappings: dict[str, TensorMapping] = {}
        self._entries: dict[str, TensorEntry] = {}
        used = set()
        for mapping in tensor_mappings(config, model_type_of(config), num_labels):
            for name, shape, _ in mapping.tensors():
                key = _entry_key(name, entries, folder)
                used.add(key)
                entry = _checked(name, entries[key], shape)
                self._entries[name] = adapter.merged(name, entry) if adapter else entry
            if mapping.always_zero:
                self._check_zero(mapping)
            else:
                self._mappings[mapping.path] = mapping
        unknown = [name for name in entries if name not in used and not BUFFERS.fullmatch(name)]
        if unknown:
            raise CheckpointError(
                f"{folder} has the tensor {unknown[0]}, which is not part of the model that its "
                "config.json describes."
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Path and shape of every variable."""
        return {path: mapping.shape for path, mapping in self._mappings.items()}

    @property
    def dtype(self) -> str:
        """The storage dtype of all tensors; float32 if they differ."""
        dtypes = {entry.dtype for entry in self._entries.values()}
        return str(NUMPY_DTYPES[dtypes.pop()]) if len(dtypes) == 1 else "float32"

    def read(self, path: str, dtype: str = "float32") -> np.ndarray:
        """A new array with the variable called `path`, in kgpt's orientation."""
        mapping = self._mappings[path]
        value = np.empty(mapping.shape, np.dtype(dtype))
        for name, shape, start in mapping.tensors():
            part = self._entries[name].read().reshape(shape)
            width = shape[0] if mapping.transposed else shape[-1]
            value[..., start : start + width] = part.T if mapping.transposed else part
        return value

    def read_quantized(self, path: str, bits: int) -> tuple[np.ndarray, np.ndarray]:
        """The matrix called `path` for a model in `bits` (8 or 4): values (out, ...) and scales.

        One that is stored so is never a float. Others are quantized, a tensor at a time.
        """
        mapping = self._mappings[path]
        parts = [
            read_quantized(name, self._entries[name], mapping, bits)
            for name, _, _ in mapping.tensors()
        ]
        if len(parts) == 1:
            return parts[0]
        q, scale = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return q, scale

    def tensor(self, name: str) -> np.ndarray:
        """A tensor by its name in the file, in the file's orientation and dtype."""
        return self._entries[name].read()

    def _check_zero(self, mapping: TensorMapping) -> None:
        for name in mapping.names:
            if np.any(self._entries[name].read()):
                raise CheckpointError(
                    f"The config.json of {self.folder} says that the model has no biases, "
                    f"but {name} is not zero."
                )


def write_weights(
    folder: Path,
    config: ModelConfig,
    read: ReadVariable,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    num_labels: int | None = None,
) -> None:
    """Write the weights of a model directory; `read` is called for one variable at a time.

    `num_labels` of a classifier.
    """
    cached_read = _LastTensorCache(read)

    def tensors() -> Iterator[LazyTensor]:
        for mapping in tensor_mappings(config, model_type_of(config), num_labels):
            for name, shape, start in mapping.tensors():
                yield LazyTensor(name, shape, _loader(mapping, shape, start, cached_read))

    write_tensors(folder, tensors(), dtype, max_shard_bytes)


def write_weights_part(
    folder: Path, config: ModelConfig, variables: Mapping[str, np.ndarray], part: Part
) -> None:
    """Write the tensors of some variables, by path, as one file of a model directory."""
    tensors = [
        LazyTensor(name, shape, _loader(mapping, shape, start, variables.__getitem__))
        for mapping in tensor_mappings(config, model_type_of(config))
        if (part.is_first if mapping.always_zero else mapping.path in variables)
        for name, shape, start in mapping.tensors()
    ]
    if tensors:
        write_file(folder / part.file(WEIGHTS_FILE), tensors)


class _LastTensorCache:
    """Caches the last variable read: its tensors are written one after the other."""

    def __init__(self, read: ReadVariable):
        self._read = read
        self._path = ""
        self._value = np.zeros(0)

    def __call__(self, path: str) -> np.ndarray:
        if path != self._path:
            self._value = np.zeros(0)
            self._value, self._path = self._read(path), path
        return self._value


def _loader(
    mapping: TensorMapping, shape: tuple[int, ...], start: int, read: ReadVariable
) -> Callable[[], np.ndarray]:
    """A function that returns the tensor of `shape` at `start` of a variable's last axis."""

    def load() -> np.ndarray:
        if mapping.always_zero:
            return np.zeros(shape, dtype="float32")
        width = shape[0] if mapping.transposed else shape[-1]
        value = read(mapping.path)[..., start : start + width]
        return value.T if mapping.transposed else value

    return load


def _entry_key(name: str, entries: Mapping[str, TensorEntry], folder: Path) -> str:
    """The key of `entries` for the tensor `name`, with or without its prefix."""
    if name in entries:
        return name
    for prefix in PREFIXES:
        if name.startswith(prefix) and name.removeprefix(prefix) in entries:
            return name.removeprefix(prefix)
    raise CheckpointError(f"{folder} lacks the tensor {name}, which its config.json requires.")


def _checked(name: str, entry: TensorEntry, shape: tuple[int, ...]) -> TensorEntry:
    if entry.shape != shape:
        raise CheckpointError(
            f"{name} in {entry.file} has shape {list(entry.shape)}, "
            f"but config.json requires {list(shape)}."
        )
    if entry.dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            f"{name} in {entry.file} has dtype {entry.dtype}; kgpt reads weights in "
            f"{', '.join(NUMPY_DTYPES)}."
        )
    return entry
