"""Utilization, memory, temperature and power of the machine, for rows of metrics.

psutil measures the CPU and NVML (nvidia-ml-py) an NVIDIA GPU. What is not installed, or what a card
does not tell, is left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

Readers = dict[str, Callable[[], float]]


class HardwareMonitor:
    """Measures this process and the machine.

    Args:
        gpu: also measure the GPU, the first that `CUDA_VISIBLE_DEVICES` names.
    """

    def __init__(self, gpu: bool):
        self._readers = _cpu_readers() | (_gpu_readers() if gpu else {})

    def sample(self) -> dict[str, float]:
        """Current values; utilization of the CPU is that since the last call.

        - `cpu_percent`: of all cores together. `rss_bytes`: resident memory of this process.
        - `gpu_percent`: share of time in which a kernel ran. `gpu_memory_bytes`: in use, by all
          processes. `gpu_temperature_c`: °C. `gpu_power_w`: watts.
        """
        values = {}
        for name, read in self._readers.items():
            with contextlib.suppress(Exception):
                values[name] = round(read(), 1)
        return values


def _cpu_readers() -> Readers:
    try:
        psutil: Any = import_module("psutil")
        process = psutil.Process()
        psutil.cpu_percent()  # where the first interval begins
    except Exception:
        return {}
    return {"cpu_percent": psutil.cpu_percent, "rss_bytes": lambda: process.memory_info().rss}


def _gpu_readers() -> Readers:
    try:
        nvml: Any = import_module("pynvml")
        nvml.nvmlInit()
        gpu = _visible_gpu(nvml)
    except Exception:  # no such package, no driver, no NVIDIA GPU
        return {}
    return {
        "gpu_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
        "gpu_memory_bytes": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        "gpu_temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    }


def _visible_gpu(nvml: Any) -> Any:
    """NVML's handle of the GPU in use: NVML counts all, CUDA those in `CUDA_VISIBLE_DEVICES`."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(first)
    return nvml.nvmlDeviceGetHandleByIndex(int(first or 0))
