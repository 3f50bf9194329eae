"""The tensors of a directory written by several processes: a file each, and an index of all.

    model-00001-of-00004.safetensors ...   whole tensors, as transformers reads them
    model.safetensors.index.json           which file has which tensor

A tensor that is sharded over processes is written whole by one of them: the format has no slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kgpt.checkpoints.safetensors_io import index_file, open_file, write_arrays
from kgpt.errors import CheckpointError
from kgpt.files import write_json


@dataclass(frozen=True)
class Part:
    """What one of `count` processes writes; there is one process unless it is said."""

    number: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Is it the part of the process that also writes what there is once?"""
        return self.number == 0

    def file(self, whole: str) -> str:
        """Its file in place of one `whole`.

        >>> Part(1, 4).file("model.safetensors")
        'model-00002-of-00004.safetensors'
        """
        stem, dot, suffix = whole.partition(".")
        return f"{stem}-{self.number + 1:05d}-of-{self.count:05d}{dot}{suffix}"

    def write(self, folder: Path, whole: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write this part's arrays; no file if there are none."""
        if arrays:
            write_arrays(folder / self.file(whole), arrays)


ALONE = Part()


def part_of_each(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Which of `count` parts each tensor is in: a stretch of them in each, of about the same bytes.

    >>> part_of_each({"a": 4, "b": 2, "c": 2}, 2)
    {'a': 0, 'b': 1, 'c': 1}
    """
    total, end, found = sum(sizes.values()), 0, {}
    for name, size in sizes.items():
        middle, end = end + size / 2, end + size
        found[name] = min(int(middle * count / total), count - 1) if total else 0
    return found


def write_index(folder: Path, whole: str, count: int) -> None:
    """Write the index of the parts that are there.

    Raises `CheckpointError` if none is.
    """
    files = [folder / Part(number, count).file(whole) for number in range(count)]
    tensors = {file.name: open_file(file) for file in files if file.is_file()}
    if not tensors:
        raise CheckpointError(f"{folder} has no part of {whole}.")
    index = {
        "metadata": {
            "total_size": sum(e.nbytes for found in tensors.values() for e in found.values())
        },
        "weight_map": {name: file for file, found in tensors.items() for name in found},
    }
    write_json(folder / index_file(whole), index)
