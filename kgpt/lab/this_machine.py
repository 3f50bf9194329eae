"""This machine as an accelerator: its peaks are measured, its memory asked for."""

from __future__ import annotations

from dataclasses import replace

import psutil

from kgpt import backend
from kgpt.backend.peak import matmul_peak, memory_bandwidth
from kgpt.config import Precision
from kgpt.datasheet import find_datasheet
from kgpt.lab.accelerators import CPU_NETWORK, PCIE, Accelerator, find_accelerator

# Bytes that a process takes for training beside the tensors of a step: the compiler and its
# programs, kernels and their buffers. Measured on the presets of benchmarks/plan.py.
PROGRAMS = {"jax": 190_000_000, "torch": 140_000_000, "tensorflow": 400_000_000}


def this_machine(precision: Precision) -> Accelerator:
    """The device that the backend computes on; takes seconds.

    The GPU of a known datasheet is that of the datasheet, with the memory that this process may
    use. Of every other device the peaks are measured.
    """
    platform, name = backend.device()
    memory = backend.device_memory()
    datasheet = find_datasheet(name)
    if datasheet is not None and datasheet.peak_flops(precision):
        known = find_accelerator(name, precision)
        return replace(known, memory=memory or known.memory)
    backend.set_precision(precision)
    xla_on_cpu = platform == "cpu" and backend.name != "torch"
    peak = matmul_peak(precision)
    resident = psutil.Process().memory_info().rss  # before the vectors of the bandwidth
    return Accelerator(
        name=name,
        kind=platform,
        peak_flops=peak,
        efficiency=1.0,
        bandwidth=memory_bandwidth(),
        memory=memory or psutil.virtual_memory().total,
        interconnect=CPU_NETWORK if platform == "cpu" else PCIE,
        runtime=resident + PROGRAMS[backend.name] if platform == "cpu" else 0,
        flash_attention=backend.name == "torch",  # its CPU kernel keeps one number a head, too
        recomputes=platform != "cpu" or backend.name != "jax",
        half_itemsize=4 if xla_on_cpu else 2,
    )
