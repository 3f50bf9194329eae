"""Utilization and memory in rows of metrics, with and without the packages that measure them."""

import sys
import types

import pytest

from kgpt.training.hardware import HardwareMonitor

GPU = {
    "gpu_percent": 98, "gpu_memory_bytes": 20_000_000_000, "gpu_temperature_c": 61,
    "gpu_power_w": 612.3,
}  # fmt: skip


@pytest.fixture
def nvml(monkeypatch):
    """A stand-in for NVML with one GPU; `asked` is how the GPU was named."""
    module = types.ModuleType("pynvml")
    module.asked = []
    module.NVML_TEMPERATURE_GPU = 0
    module.nvmlInit = lambda: None
    module.nvmlDeviceGetHandleByIndex = lambda index: module.asked.append(index) or "gpu"
    module.nvmlDeviceGetHandleByUUID = lambda uuid: module.asked.append(uuid) or "gpu"
    module.nvmlDeviceGetUtilizationRates = lambda gpu: types.SimpleNamespace(gpu=98, memory=40)
    module.nvmlDeviceGetMemoryInfo = lambda gpu: types.SimpleNamespace(used=20_000_000_000)
    module.nvmlDeviceGetTemperature = lambda gpu, sensor: 61
    module.nvmlDeviceGetPowerUsage = lambda gpu: 612_345  # milliwatts
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


def test_cpu_and_memory_of_the_process():
    values = HardwareMonitor(gpu=False).sample()
    assert values.keys() == {"cpu_percent", "rss_bytes"}
    assert 0 <= values["cpu_percent"] <= 100
    assert 10_000_000 < values["rss_bytes"] < 1e12


def test_the_gpu_in_use(nvml):
    values = HardwareMonitor(gpu=True).sample()
    assert {name: values[name] for name in GPU} == GPU
    assert not GPU.keys() & HardwareMonitor(gpu=False).sample().keys()


@pytest.mark.parametrize(
    ("visible", "asked"),
    [(None, 0), ("", 0), ("3,1", 3), ("GPU-8f2a, GPU-1", "GPU-8f2a"), ("MIG-7", "MIG-7")],
)
def test_cuda_visible_devices_names_the_gpu(nvml, monkeypatch, visible, asked):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    HardwareMonitor(gpu=True)
    assert nvml.asked == [asked]


def test_what_a_card_does_not_tell_is_left_out(nvml):
    def not_supported(gpu):
        raise RuntimeError("Not Supported")

    nvml.nvmlDeviceGetPowerUsage = not_supported
    values = HardwareMonitor(gpu=True).sample()
    assert "gpu_power_w" not in values and values["gpu_percent"] == 98


def test_no_driver_and_no_packages(nvml, monkeypatch):
    def no_driver():
        raise OSError("NVML Shared Library Not Found")

    nvml.nvmlInit = no_driver
    assert not GPU.keys() & HardwareMonitor(gpu=True).sample().keys()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert HardwareMonitor(gpu=True).sample() == {}
