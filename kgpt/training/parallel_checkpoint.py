"""A checkpoint that several processes write: each its tensors, the first also what is there once.

Each tensor is gathered in its turn, so that a device holds one whole tensor at a time, and copied
by the process that writes it. The files are written beside training, without a collective: a
process has written its part when its checksums are there, and the first waits for all of them.
The folder must be on a file system that the processes share.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kgpt import backend
from kgpt.checkpoints.parts import Part, part_of_each
from kgpt.errors import CheckpointError
from kgpt.files import TEMPORARY, sha256, sync, write_json

PART_TIMEOUT_S = 600.0
POLL_S = 0.05


def own_part() -> Part:
    """What this process writes of a checkpoint."""
    return Part(backend.distribution.process_index(), backend.distribution.process_count())


def copy_own(tensors: Mapping[str, Any], part: Part, divided: bool = True) -> dict[str, np.ndarray]:
    """Of tensors or variables by name, copies in host memory of those that this process writes.

    All processes must call it, with tensors of the same names in the same order.

    Args:
        divided: among the processes; else the first writes them all.
    """
    sizes = {name: int(np.prod(x.shape)) for name, x in tensors.items()}
    owners = part_of_each(sizes, part.count if divided else 1)
    own = {}
    for name, tensor in tensors.items():
        whole = backend.distribution.gather(tensor)
        if owners[name] == part.number:
            own[name] = np.array(backend.to_host(whole))
    return own


def work_folder(folder: Path) -> Path:
    """Where the parts of the checkpoint `folder` are written; made by whichever comes first."""
    work = folder.parent / f"{TEMPORARY}{folder.name}-parts"
    work.mkdir(parents=True, exist_ok=True)
    return work


def finish_part(work: Path, part: Part) -> None:
    """Say that this process has written its files, whose names have the part's number."""
    files = sorted(work.glob(Part(part.number, part.count).file("*.safetensors")))
    for file in files:
        sync(file)
    write_json(_sums_file(work, part.number), {file.name: sha256(file) for file in files})


def wait_for_parts(work: Path, count: int, timeout_s: float = PART_TIMEOUT_S) -> dict[str, str]:
    """Wait until all processes have written their files; returns the SHA-256 of each.

    Raises `CheckpointError` after `timeout_s` seconds.
    """
    end = time.monotonic() + timeout_s
    sums: dict[str, str] = {}
    for number in range(count):
        file = _sums_file(work, number)
        while not file.is_file():
            if time.monotonic() > end:
                raise CheckpointError(
                    f"Process {number} of {count} has not written its part of the checkpoint "
                    f"{work} within {timeout_s:.0f} s; see whether it still runs, and whether it "
                    "shares the folder of the run."
                )
            time.sleep(POLL_S)
        sums |= json.loads(file.read_text(encoding="utf-8"))
        file.unlink()
    return sums


def _sums_file(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.json"
