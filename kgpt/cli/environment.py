"""The process a backend runs in: which backend, how quiet, and with which memory settings.

Called before Keras is imported, by the commands that compute.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

from kgpt.config import did_you_mean
from kgpt.errors import UsageError

PACKAGES = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}
DEFAULT = "tensorflow"

# A training step allocates and frees some gigabyte of temporaries. By default glibc gives such
# blocks back to the kernel, and every step pays again for fresh pages: up to a third of the time
# on JAX and TensorFlow. Huge pages make faults rare; without trimming and mmap there are none.
HUGE_PAGES = "glibc.malloc.hugetlb=1"
KEEP_PAGES = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=67108864"
)
MALLOC = {"jax": HUGE_PAGES, "torch": HUGE_PAGES, "tensorflow": KEEP_PAGES}


def choose_backend() -> str:
    """Settle `KERAS_BACKEND`, which must be one kgpt knows and be installed."""
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


def prepare_process() -> None:
    """Choose the backend and start this process anew if its memory settings must change.

    The C library reads them only when a process starts. Whoever sets GLIBC_TUNABLES decides.
    """
    name = choose_backend()
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


def silence_native_code() -> None:
    """Keep what backends print from native code off the terminal; Python's own output stays.

    Native code writes to file descriptor 2, whatever `sys.stderr` is.
    """
    terminal = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    os.close(sink)
    sys.stderr = os.fdopen(terminal, "w", encoding="utf-8", errors="backslashreplace")


def _from_keras_json() -> str | None:
    """The backend that Keras's own configuration file asks for."""
    folder = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((folder / "keras.json").read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        return None
