"""Memory of this process: its peak, and what it holds unused."""

from __future__ import annotations

import ctypes
import platform
import sys


def peak_resident_bytes() -> int:
    """The most bytes that this process has held in physical memory."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def return_free_memory() -> None:
    """Give the system back what glibc's malloc holds of freed blocks; nothing with other libraries.

    It keeps most blocks of up to 32 MiB for later, once some that large have been freed.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
