"""Incremental readers return each row once; downsampled curves keep their extremes."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt_tui.runs.curve import crop, mean_downsample, minmax_downsample, smooth
from kgpt_tui.runs.file_tail import CHUNK, JsonLines, TextTail
from kgpt_tui.runs.metrics import MetricsHistory, RunSummary

numbers = st.floats(-1e6, 1e6)
curves = st.lists(numbers, min_size=1, max_size=400).map(
    lambda values: (np.arange(len(values), dtype=float), np.array(values))
)


def drain(reader):
    """Everything there is to read now."""
    rows, fresh = reader.read()
    while more := reader.read()[0]:
        rows += more
    return rows, fresh


@given(cuts=st.lists(st.integers(0, 400), max_size=12), count=st.integers(0, 12))
def test_each_row_is_read_once_wherever_writes_are_split(tmp_path_factory, cuts, count):
    file = tmp_path_factory.mktemp("cut") / "metrics.jsonl"
    rows = [{"step": n, "loss": n / 7, "text": "é漢"} for n in range(count)]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    reader, seen, at = JsonLines(file), [], 0
    for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        with file.open("ab") as writer:
            writer.write(data[at:cut])
        at = cut
        seen += drain(reader)[0]
    assert seen == rows


def test_damaged_lines_are_skipped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(
        b'{"step": 1}\nnonsense\n[1]\n\xff\xfe\n{"step": 2{"step": 3}\n{"step": 4}\n{"st'
    )
    assert [row["step"] for row in drain(JsonLines(file))[0]] == [1, 4]


def test_a_line_longer_than_a_chunk_is_skipped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"x" * (2 * CHUNK + 5) + b'\n{"step": 1}\n')
    reader = JsonLines(file)
    rows = [row for _ in range(5) for row in reader.read()[0]]
    assert rows == [{"step": 1}]


def test_a_replaced_file_is_read_from_its_beginning(tmp_path):
    file, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    file.write_text('{"step": 1}\n{"step": 2}\n')
    reader = JsonLines(file)
    assert reader.read() == ([{"step": 1}, {"step": 2}], True)
    assert reader.read() == ([], False)
    other.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"step": 7}\n')
    other.replace(file)
    assert reader.read() == ([{"step": 1}, {"step": 5}, {"step": 6}, {"step": 7}], True)


def test_a_deleted_folder_is_waited_for(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    file = folder / "metrics.jsonl"
    file.write_text('{"step": 1}\n')
    reader = JsonLines(file)
    reader.read()
    shutil.rmtree(folder)
    assert reader.read() == ([], False)
    folder.mkdir()
    file.write_text('{"step": 9}\n')
    assert drain(reader)[0] == [{"step": 9}]


def test_only_new_bytes_are_read(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n')
    reader = JsonLines(file)
    reader.read()
    with file.open("r+b") as damaged:  # what was read before is not looked at again
        damaged.write(b"\x00" * 11)
        damaged.seek(0, 2)
        damaged.write(b'{"step": 2}\n')
    assert reader.read() == ([{"step": 2}], False)


def test_the_log_begins_near_its_end(tmp_path):
    file = tmp_path / "train.log"
    file.write_text("".join(f"line {n}\n" for n in range(1000)))
    tail = TextTail(file, tail=20)
    text, fresh = tail.read()
    assert fresh and text.endswith("line 999\n") and len(text) == 20
    with file.open("a") as log:
        log.write("last words\n")
    assert tail.read() == ("last words\n", False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "3", [1]])
def test_values_that_are_not_finite_numbers_are_left_out(value):
    history = MetricsHistory()
    history.add([{"step": 1, "loss": 2.0}, {"step": 2, "loss": value}, {"loss": 3.0}])
    steps, values = history.curve("loss")
    assert steps.tolist() == [1] and values.tolist() == [2.0]


def test_the_best_validation_loss_is_kept_with_its_step():
    history = MetricsHistory()
    history.add([{"step": n, "val_loss": v} for n, v in ((10, 3.0), (20, 2.0), (30, 2.5))])
    assert history.best == (2.0, 20) and history.last["val_loss"] == 2.5


def test_a_summary_equals_a_full_reading(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 4, "val_loss": 2}\n{"step": 2, "loss": 3}\n')
    summary = RunSummary(file)
    while summary.read():
        pass
    assert (summary.best, summary.last["loss"], summary.last["step"]) == (2.0, 3, 2)


@given(curve=curves, buckets=st.integers(1, 60))
def test_minmax_downsampling_keeps_extremes_and_order(curve, buckets):
    steps, values = minmax_downsample(curve, buckets)
    assert len(steps) <= max(2 * buckets, 1) and len(steps) == len(values)
    assert values.min() == curve[1].min() and values.max() == curve[1].max()
    assert (np.diff(steps) >= 0).all()


@given(curve=curves, buckets=st.integers(1, 60))
def test_bucket_means_stay_within_the_curve(curve, buckets):
    steps, values = mean_downsample(curve, buckets)
    assert len(steps) == len(values) <= max(buckets, 1)
    slack = 1e-6 * (1 + np.abs(curve[1]).max())
    assert values.min() >= curve[1].min() - slack and values.max() <= curve[1].max() + slack


@given(values=st.lists(numbers, min_size=1, max_size=50), weight=st.floats(0.01, 0.99))
def test_smoothing_is_the_weighted_mean_of_the_past(values, weight):
    got = smooth(np.array(values), weight)[-1]
    weights = weight ** np.arange(len(values))[::-1]
    assert got == pytest.approx(float((weights * values).sum() / weights.sum()), rel=1e-6, abs=1e-3)


@given(curve=curves, low=st.floats(-10, 500), width=st.floats(0, 500))
def test_cropping_keeps_all_visible_points(curve, low, width):
    steps, _ = crop(curve, low, low + width)
    inside = curve[0][(curve[0] >= low) & (curve[0] <= low + width)]
    assert set(inside) <= set(steps) and len(steps) <= len(inside) + 2
