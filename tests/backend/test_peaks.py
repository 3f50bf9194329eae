"""Datasheet peaks by device name, measured peaks, and peak memory."""

import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.datasheet import DATASHEETS, find_datasheet

# As torch.cuda.get_device_name and JAX's device_kind report them.
REPORTED = {
    "NVIDIA B200": (2250, 180), "NVIDIA H200": (989.5, 141), "NVIDIA H200 NVL": (835.5, 141),
    "NVIDIA H100 80GB HBM3": (989.5, 80), "NVIDIA H100 PCIe": (756.5, 80),
    "NVIDIA H100 NVL": (835.5, 94), "NVIDIA A100-SXM4-40GB": (312, 40),
    "NVIDIA A100-SXM4-80GB": (312, 80), "NVIDIA A100-PCIE-40GB": (312, 40),
    "NVIDIA A100 80GB PCIe": (312, 80), "NVIDIA L4": (121, 24), "NVIDIA L40S": (362, 48),
    "NVIDIA A10": (125, 24), "Tesla T4": (None, 16), "Tesla V100-SXM2-16GB": (None, 16),
    "NVIDIA GeForce RTX 3090": (71, 24), "NVIDIA GeForce RTX 4090": (165.2, 24),
    "NVIDIA GeForce RTX 5090": (209.5, 32),
}  # fmt: skip
OTHERS = [
    "cpu", "CPU", "Apple GPU", "NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 3090 Ti", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA H800", "",
]  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_a_device_is_found_by_its_reported_name(name):
    datasheet = find_datasheet(name)
    assert datasheet is not None
    bfloat16 = datasheet.peak_flops("bfloat16")
    assert (bfloat16 and bfloat16 / 1e12, datasheet.memory_gb) == REPORTED[name]


@pytest.mark.parametrize("name", OTHERS)
def test_another_device_has_no_datasheet(name):
    assert find_datasheet(name) is None


@pytest.mark.parametrize("name", DATASHEETS)
def test_lower_precision_is_not_slower(name):
    datasheet = DATASHEETS[name]
    order = ("float32", "tensorfloat32", "bfloat16", "float16")
    peaks = [peak for peak in map(datasheet.peak_flops, order) if peak]
    assert peaks == sorted(peaks)
    assert peaks[0] > 1e12 and peaks[-1] < 3e15 and 1e11 < datasheet.bandwidth < 1e13


def test_no_peak_is_stated_for_a_precision_without_one():
    assert find_datasheet("Tesla T4").peak_flops("bfloat16") is None
    assert find_datasheet("NVIDIA H200").peak_flops("int8") is None


@pytest.mark.backend
def test_peak_memory_never_falls_and_counts_what_was_allocated():
    before = backend.peak_memory()
    block = ops.convert_to_tensor(np.ones((64, 1 << 20), "float32"))  # 256 MiB
    backend.synchronize(block)
    held = backend.peak_memory()
    del block
    assert held >= 256 << 20 and backend.peak_memory() >= held >= before


@pytest.mark.backend
def test_a_matmul_peak_is_measured():
    assert matmul_peak("float32", repeats=1) > 1e8
