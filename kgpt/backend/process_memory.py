"""Memory of this process: its peak, and returning freed memory to the operating system."""

from __future__ import annotations

import ctypes
import platform
import sys


def peak_resident_bytes() -> int:
    """The most bytes that this process has held in physical memory."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def trim_malloc() -> None:
    """Return freed memory to the operating system (`malloc_trim`); does nothing without glibc.

    glibc otherwise keeps freed blocks of up to 32 MiB for reuse, once one of that size was freed.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
