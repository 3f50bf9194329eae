"""GPU memory grows on demand and up to a fraction; chunks of the loss fit the memory."""

import os

import pytest

from kgpt import backend
from kgpt.cli.environment import share_gpu
from kgpt.config import default_loss_chunk, memory_fraction
from kgpt.errors import UsageError

GIB = 1 << 30
VARIABLES = (
    "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "TF_FORCE_GPU_ALLOW_GROWTH", "KGPT_MEMORY_FRACTION",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def test_memory_grows_on_demand_unless_told_otherwise(monkeypatch):
    share_gpu(None)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    share_gpu(None)
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_the_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("KGPT_MEMORY_FRACTION", "0.7")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    share_gpu(None)
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.7"
    share_gpu(0.4)
    assert (os.environ["XLA_CLIENT_MEM_FRACTION"], memory_fraction()) == ("0.4", 0.4)
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ  # JAX refuses both


@pytest.mark.parametrize("text", ["0", "1.5", "half", "nan"])
def test_a_fraction_is_above_zero_and_at_most_one(monkeypatch, text):
    monkeypatch.setenv("KGPT_MEMORY_FRACTION", text)
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        memory_fraction()


@pytest.mark.backend
def test_a_cpu_has_no_memory_of_its_own():
    if backend.device()[0] == "cpu":
        backend.limit_memory(0.5)
        assert backend.device_memory() is None
    else:
        assert backend.device_memory() > GIB


@pytest.mark.parametrize(
    ("memory", "precision", "chunk"),
    [
        (None, "bfloat16", 4096), (139 * GIB, "bfloat16", 32768), (24 * GIB, "bfloat16", 8192),
        (24 * GIB, "float32", 8192), (4 * GIB, "float32", 1024), (GIB, "float32", 1024),
    ],
)  # fmt: skip
def test_the_chunk_of_the_loss_fits_the_memory(memory, precision, chunk):
    assert default_loss_chunk(50304, precision, memory) == chunk
