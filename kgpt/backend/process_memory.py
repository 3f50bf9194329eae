"""Peak memory of this process, where a backend computes on the CPU."""

from __future__ import annotations

import sys


def peak_resident_bytes() -> int:
    """The most bytes that this process has held in physical memory."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
