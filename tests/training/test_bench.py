"""`kgpt bench train`: what is measured, and what it is divided by."""

import json
from unittest import mock

import pytest
from rich.console import Console

from kgpt.cli import main
from kgpt.cli.bench_train import _show
from kgpt.config import Config, ModelConfig
from kgpt.training.bench import describe

pytestmark = [pytest.mark.backend, pytest.mark.portable]

TINY = {
    "model": {"num_layers": 1, "num_heads": 2, "hidden_dim": 16, "max_length": 16},
    "train": {"batch_size": 2, "learning_rate": 0.01},
}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    file = tmp_path / "tiny.yaml"
    file.write_text(Config.parse({**TINY, "model": TINY["model"] | {"vocab_size": 40}}).to_yaml())
    return file


def bench(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "train", *map(str, arguments)])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_each_batch_size_is_measured(config, capsys):
    out = bench(capsys, config, "--steps", "1", "--batch-sizes", "4,1", "--json")
    figures = json.loads(out)
    assert [row["batch"] for row in figures["batches"]] == [1, 4]
    assert figures["datasheet_peak"] is None
    for row in figures["batches"]:
        assert "datasheet_mfu" not in row and row["peak_memory"] > 1 << 20
        rate = 1e3 * row["batch"] * 16 / row["ms_per_step"]
        assert row["tokens_per_s"] == pytest.approx(rate)
        mfu = rate * figures["flops_per_token"] / figures["matmul_peak"]
        assert row["mfu"] == pytest.approx(mfu)


def test_a_known_gpu_is_compared_with_its_datasheet(config):
    with (
        mock.patch("kgpt.backend.device", return_value=("gpu", "NVIDIA H200")),
        mock.patch("kgpt.training.bench.matmul_peak", return_value=5e13),
    ):
        figures = describe(Config.load(str(config)))
    assert (figures["datasheet_peak"], figures["matmul_peak"]) == (67e12, 5e13)


def test_a_cpu_is_named_with_its_peak(config, capsys, monkeypatch):
    described = describe(Config.load(str(config))) | {"matmul_peak": 3.9e11, "processor": "CPU X"}
    _show(Console(width=100), {"config": "x", "batches": []} | described)
    out = capsys.readouterr().out
    assert "on CPU X" in out and "390 GFLOP/s measured" in out


@pytest.mark.parametrize("datasheet_peak", [None, 67e12])
def test_the_table_has_what_was_measured(datasheet_peak, capsys):
    row = {"batch": 2, "ms_per_step": 3.0, "tokens_per_s": 5e3, "mfu": 0.25, "datasheet_mfu": 0.125,
           "peak_memory": 3 << 30, "compile_s": 4.5}  # fmt: skip
    figures = {"config": "x", "parameters": 7e6, "precision": "float32", "backend": "jax",
               "device": "D", "processor": None, "matmul_peak": 5e13,
               "datasheet_peak": datasheet_peak, "batches": [row]}  # fmt: skip
    _show(Console(width=100), figures)
    out = capsys.readouterr().out
    assert all(part in out for part in ("25.0%", "3.0 GiB", "4.5 s", "5,000", "50.00 TFLOP/s"))
    assert ("12.5%" in out) == ("67 by its datasheet" in out) == bool(datasheet_peak)


def test_flops_are_counted_as_by_nanogpt():
    """6N + 12LHQT a token, N without position embeddings; output and embedding are one matrix."""
    config = ModelConfig(vocab_size=50304, num_layers=12, num_heads=12, hidden_dim=768, bias=False)
    parameters = config.num_parameters() - config.max_length * 768
    assert config.flops_per_token(1024) == 6 * parameters + 12 * 12 * 12 * 64 * 1024
