"""Prepares the process for a backend: its choice, its output, malloc settings.

Called before Keras is imported.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

from kgpt.cli.compilation_cache import use_compilation_cache
from kgpt.cli.lean_imports import skip_optional_packages
from kgpt.config import MEMORY_FRACTION, did_you_mean, memory_fraction
from kgpt.errors import UsageError

PACKAGES = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}
DEFAULT = "tensorflow"

# A training step allocates and frees about a gigabyte of temporaries. By default glibc returns such
# blocks to the kernel, and the page faults of every step cost up to a third of its time on JAX and
# TensorFlow. Huge pages make them rare; without trimming and mmap there are none.
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KEEP_PAGES = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=67108864"
)
MALLOC = {"jax": HUGE_PAGES, "torch": HUGE_PAGES, "tensorflow": KEEP_PAGES}


def choose_backend() -> str:
    """Set and return `KERAS_BACKEND`; a `UsageError` if it is unknown or not installed."""
    name = os.environ.get("KERAS_BACKEND") or _from_keras_json() or DEFAULT
    if name not in PACKAGES:
        hint = did_you_mean(name, PACKAGES) or f"choose {', '.join(PACKAGES)}."
        raise UsageError(f"KERAS_BACKEND={name} is no backend of kgpt; {hint}")
    if importlib.util.find_spec(PACKAGES[name]) is None:
        raise UsageError(
            f"KERAS_BACKEND={name} is not installed; "
            f'`pip install "kgpt[{name}]"`, or choose another backend.'
        )
    os.environ["KERAS_BACKEND"] = name
    return name


def prepare_process(fraction: float | None = None) -> None:
    """Choose the backend, and restart this process if its malloc settings must change.

    glibc reads them only at process start. A GLIBC_TUNABLES that is already set is kept.

    Args:
        fraction: of the GPU's memory that the process may use; `KGPT_MEMORY_FRACTION` if None.
    """
    name = choose_backend()
    share_gpu(fraction)
    skip_optional_packages(name)
    use_compilation_cache(name)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    if not sys.orig_argv or os.environ.get("KGPT_RESTARTED"):
        return
    os.environ |= {"GLIBC_TUNABLES": MALLOC[name], "KGPT_RESTARTED": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def share_gpu(fraction: float | None) -> None:
    """Let GPU memory grow on demand, up to `fraction`, so that several processes share a GPU.

    By default JAX takes three quarters of it at the start and TensorFlow all. Variables that are
    set already are kept; `kgpt.backend` sets the limit of PyTorch and TensorFlow.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if fraction is not None:
        os.environ[MEMORY_FRACTION] = str(fraction)
    if limit := memory_fraction():
        os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)  # a deprecated name of the next
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(limit)


def silence_native_code() -> None:
    """Discard what native code of backends prints on stderr; Python's own output stays.

    Native code writes to file descriptor 2, whatever `sys.stderr` is.
    """
    terminal = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = os.fdopen(terminal, "w", encoding=encoding, errors=errors)


def _from_keras_json() -> str | None:
    """The backend set in Keras's configuration file."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        name = json.loads((folder / "keras.json").read_text(encoding="utf-8"))["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(name) if name else None
