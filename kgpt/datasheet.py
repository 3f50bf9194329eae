"""What vendors' datasheets say of common accelerators, found by the name that drivers report.

Sources are NVIDIA's datasheets of each product (H100, H200, HGX B200, A100, A10, L4, L40S, T4,
V100), for GeForce cards the appendices of its Ampere GA102, Ada and RTX Blackwell architecture
papers, and Google's pages on Cloud TPU v5e and v5p, which state no figure for float32. All are
dense figures, half of those "with sparsity", and accumulate in float32. T4 and V100 have neither
TF32 nor bfloat16.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TERA = 1e12
GIGA = 1e9


@dataclass(frozen=True)
class Datasheet:
    """Peaks of one device: TFLOP/s by precision (None: no figure), GB/s, and GB of memory."""

    float32: float | None
    tensorfloat32: float | None
    bfloat16: float | None
    float16: float | None
    bandwidth_gb: float
    memory_gb: float

    def peak_flops(self, precision: str) -> float | None:
        """Peak FLOP/s of dense matrix products; None for a precision it has no figure of."""
        known = ("float32", "tensorfloat32", "bfloat16", "float16")
        tflops = getattr(self, precision) if precision in known else None
        return None if tflops is None else tflops * TERA

    @property
    def bandwidth(self) -> float:
        """Peak bytes per second of its memory."""
        return self.bandwidth_gb * GIGA


# By device name, without vendor and brand.
DATASHEETS: dict[str, Datasheet] = {
    "B200": Datasheet(75, 1100, 2250, 2250, 7700, 180),
    "H200": Datasheet(67, 494.5, 989.5, 989.5, 4800, 141),
    "H200 NVL": Datasheet(60, 417.5, 835.5, 835.5, 4800, 141),
    "H100 80GB HBM3": Datasheet(67, 494.5, 989.5, 989.5, 3350, 80),
    "H100 NVL": Datasheet(60, 417.5, 835.5, 835.5, 3900, 94),
    "H100 PCIe": Datasheet(51, 378, 756.5, 756.5, 2000, 80),
    "A100-SXM4-40GB": Datasheet(19.5, 156, 312, 312, 1555, 40),
    "A100-PCIE-40GB": Datasheet(19.5, 156, 312, 312, 1555, 40),
    "A100-SXM4-80GB": Datasheet(19.5, 156, 312, 312, 2039, 80),
    "A100 80GB PCIe": Datasheet(19.5, 156, 312, 312, 1935, 80),
    "L40S": Datasheet(91.6, 183, 362, 362, 864, 48),
    "L4": Datasheet(30.3, 60, 121, 121, 300, 24),
    "A10": Datasheet(31.2, 62.5, 125, 125, 600, 24),
    "T4": Datasheet(8.1, None, None, 65, 320, 16),
    "V100-SXM2-16GB": Datasheet(15.7, None, None, 125, 900, 16),
    "V100-SXM2-32GB": Datasheet(15.7, None, None, 125, 900, 32),
    "V100-PCIE-16GB": Datasheet(14, None, None, 112, 900, 16),
    "V100-PCIE-32GB": Datasheet(14, None, None, 112, 900, 32),
    "RTX 5090": Datasheet(104.8, 104.8, 209.5, 209.5, 1792, 32),
    "RTX 4090": Datasheet(82.6, 82.6, 165.2, 165.2, 1008, 24),
    "RTX 3090": Datasheet(35.6, 35.6, 71, 71, 936, 24),
    "TPU v5 lite": Datasheet(None, None, 197, None, 819, 16),
    "TPU v5": Datasheet(None, None, 459, None, 2765, 95),
}


def find_datasheet(device_name: str) -> Datasheet | None:
    """The datasheet of a device, None if it is not in the table.

    The whole name must match: an "RTX 4090 Laptop GPU" or a part of an H100 is another device.

    >>> find_datasheet("NVIDIA H200").memory_gb, find_datasheet("NVIDIA GeForce RTX 4090 D")
    (141, None)
    """
    short = re.sub(r"^(NVIDIA |Tesla |GeForce )+", "", device_name.strip())
    return DATASHEETS.get(short)
