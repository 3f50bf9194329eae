"""Persistent compilation caches: a program compiled once is read by later processes.

They are in the folder `compiled` of `KGPT_CACHE`, by default the user's cache folder, one for each
version of a backend and each kind of CPU, because compiled programs run on no other. Several
processes may share them. `KGPT_COMPILATION_CACHE=0` turns them off; a cache that the environment
names already, as by `JAX_COMPILATION_CACHE_DIR`, is used instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import platformdirs

SWITCH = "KGPT_COMPILATION_CACHE"
MAX_BYTES = 1 << 30  # of each backend's programs
TF_FOLDER = "--tf_xla_persistent_cache_directory="
CPU_FEATURES = ("model name", "flags", "Features")  # what a program depends on, in /proc/cpuinfo


def use_compilation_cache(backend: str) -> None:
    """Set the environment so that `backend`, not imported yet, keeps its compiled programs."""
    if os.environ.get(SWITCH) == "0":
        return
    folder = _folder(backend)
    with contextlib.suppress(OSError):  # without a folder that can be written, nothing is kept
        folder.mkdir(parents=True, exist_ok=True)
    if backend == "jax":
        evict(folder, MAX_BYTES)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    elif backend == "tensorflow":
        flags = os.environ.get("TF_XLA_FLAGS", "")
        if TF_FOLDER not in flags and " " not in str(folder):
            evict(folder, MAX_BYTES)
            os.environ["TF_XLA_FLAGS"] = f"{flags} {TF_FOLDER}{folder}".strip()
    else:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def evict(folder: Path, max_bytes: int) -> None:
    """Delete the files that were not read or written for the longest time, down to `max_bytes`.

    A process that lacks one compiles the program again. TensorFlow bounds its cache by nothing; JAX
    by times of use in files of their own, and once one is missing, as after a kill, keeps nothing.
    """
    with contextlib.suppress(OSError):
        found = [(path, path.stat()) for path in folder.iterdir()]
        found.sort(key=lambda pair: max(pair[1].st_atime, pair[1].st_mtime))
        excess = sum(status.st_size for _, status in found) - max_bytes
        for path, status in found:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= status.st_size


def _folder(backend: str) -> Path:
    cache = os.environ.get("KGPT_CACHE") or platformdirs.user_cache_dir("kgpt")
    name = f"{backend}-{version(backend)}-{_machine()}"
    return Path(cache).absolute() / "compiled" / name


def _machine() -> str:
    """A digest of the CPU's model and instruction sets."""
    described = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines():
            if line.split("\t")[0].strip() in CPU_FEATURES:
                described.append(line)
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:12]
