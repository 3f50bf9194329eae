"""The name of the CPU, and the instruction sets that its matrix products may use."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

# Instruction sets on which the speed of matrix products depends, by their names in /proc/cpuinfo.
MATMUL_FEATURES = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "bf16",
    "amx_bf16": "AMX", "asimd": "NEON", "sve": "SVE", "bf16": "bf16",
}  # fmt: skip


def processor_with_features() -> str:
    """The name of the CPU with the number of CPUs and what its matrix products may use."""
    flags: list[str] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                flags = line.partition(":")[2].split()
                break
    features = [shown for name, shown in MATMUL_FEATURES.items() if name in flags]
    return ", ".join([processor(), f"{os.cpu_count()} CPUs", *features])


def processor() -> str:
    """The name of the CPU, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
