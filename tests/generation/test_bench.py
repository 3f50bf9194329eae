"""`kgpt bench generate`: figures by batch size and context, and their shares of the peaks."""

import json
from unittest import mock

import pytest

from kgpt.cli import main
from kgpt.cli.bench_generate import _show
from kgpt.config import ModelConfig
from kgpt.generation.bench import measure, shares
from kgpt.model.gpt import GPT

pytestmark = [pytest.mark.backend, pytest.mark.portable]

CONFIG = ModelConfig(vocab_size=40, num_layers=1, num_heads=2, hidden_dim=16, max_length=64)


@pytest.fixture(scope="module")
def figures():
    return measure(GPT(CONFIG, seed=1), 4, 3, [2, 1], [8, 4096], repeats=1)


def test_each_batch_size_and_context_is_measured(figures):
    assert [row["batch"] for row in figures["batches"]] == [1, 2]
    assert [row["context"] for row in figures["contexts"]] == [8]
    for row in figures["batches"]:
        assert row["first_token_ms"] > 0 and row["ms_per_token"] > 0 and row["peak_memory"] > 0
        whole_s = row["batch"] * 4 / row["tokens_per_s"]
        assert whole_s > 4 * row["ms_per_token"] / 1e3
        assert row["of_bandwidth"] > 0 and row["of_peak"] > 0


def test_on_a_cpu_no_share_of_a_datasheet_is_stated(figures):
    assert figures["datasheet_bandwidth"] is None
    assert not [name for row in figures["batches"] for name in row if "datasheet" in name]


def test_shares_are_work_by_time_by_peak():
    row = {"ms_per_token": 2.0, "step_bytes": 1e9, "step_flops": 4e9}
    peaks = {"bandwidth": 1e12, "datasheet_bandwidth": 2e12, "matmul_peak": 8e12,
             "datasheet_peak": None}  # fmt: skip
    assert shares(row, peaks) == pytest.approx(
        {"of_bandwidth": 0.5, "of_datasheet_bandwidth": 0.25, "of_peak": 0.25}
    )


def test_the_table_fits_80_columns(figures, capsys, monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    _show(Console(), {"model": "tiny", "dtype": "float32", **figures})
    out = capsys.readouterr().out
    assert "TTFT ms" in out and "TPOT ms" in out and "…" not in out


def test_the_command_prints_and_saves_one_object(figures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    command = ["bench", "generate", "--model", "tiny", "--batch-sizes", "2,1", "--contexts", "8"]
    with (
        mock.patch("kgpt.cli.bench_generate._folder", return_value=None),
        mock.patch("kgpt.cli.bench_generate._load", return_value=(mock.Mock(), "float32")),
        mock.patch("kgpt.cli.bench_generate.silence_native_code"),
        mock.patch("kgpt.generation.bench.measure", return_value=figures) as measured,
        pytest.raises(SystemExit) as ended,
    ):
        main([*command, "--output", str(tmp_path / "a.json"), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "a.json").read_text())
    assert printed["model"] == "tiny" and measured.call_args.args[1:] == (64, 32, [1, 2], [8])
