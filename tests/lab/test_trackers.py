"""Runs go to TensorBoard, W&B and trackio and come back the same; those of others get kgpt's names.

Nothing here uses the network.
"""

import contextlib
import json
import math
import os
import socket
import sqlite3
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.config import Config
from kgpt.errors import DataError, KgptError, RunError, UsageError
from kgpt.lab.compare import compare
from kgpt.lab.trackers import tensorboard_files, trackio_files, wandb_files
from kgpt.lab.trackers.export import export_runs, tracked
from kgpt.lab.trackers.formats import TRACKERS
from kgpt.lab.trackers.importing import import_runs
from kgpt.lab.trackers.metric_names import map_names, rename
from kgpt.lab.trackers.tracked_run import TrackedRun
from kgpt.lab.trackers.wandb_log import BLOCK_BYTES, MAGIC, PIECE, records
from kgpt.runs import RunStatus, all_runs, find_run, new_run
from tests.cli.running import kgpt

ROWS = [
    {"step": 1, "time": 1.7e9 + 0.25, "loss": 5.125, "lr": 0.5},
    {"step": 10, "time": 1.7e9 + 9.5, "loss": 4.0, "lr": 0.25, "val_loss": 4.5},
    {"step": 20, "time": 1.7e9 + 19.0, "loss": math.inf, "lr": 0.125},
]
STATUS = RunStatus(
    state="finished", step=20, total_steps=20, epoch=0.5, tokens_seen=640, backend="jax", device="x"
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch, tmp_path):
    def refuse(*address):
        raise AssertionError(f"a connection to {address}")

    connect = socket.socket.connect
    monkeypatch.setattr(
        socket.socket, "connect",
        lambda self, address: connect(self, address) if self.family == socket.AF_UNIX
        or address[0] in ("127.0.0.1", "localhost") else refuse(address),
    )  # fmt: skip
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path))


@pytest.fixture
def run():
    run = new_run("demo")
    run.path.mkdir(parents=True)
    changes = {"model.vocab_size": 50, "train.max_steps": 20, "train.max_grad_norm": None}
    run.write_config(Config.load("shakespeare-cpu", changes).to_yaml())
    run.write_status(STATUS)
    for row in ROWS:
        run.append("metrics", row)
    return run


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_run_comes_back_as_it_was(run, tracker, tmp_path):
    export_runs([run], tracker, tmp_path / "out")
    (imported,) = import_runs(tmp_path / "out", name="back")
    back = find_run("back")
    assert back.metrics() == ROWS and back.config_text() == run.config_text()
    assert back.status() == STATUS.model_copy(update={"heartbeat": ROWS[-1]["time"]})
    assert (imported.steps, imported.renamed, imported.skipped) == (3, {}, {})
    assert compare([run, back], axis="flops").differences == {}


def test_the_commands_export_and_import(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = kgpt(capsys, "runs", "export", "demo", "--to", "tensorboard", "--json")
    assert code == 0 and json.loads(out) == {"demo": "tensorboard/demo"}
    code, out, _ = kgpt(capsys, "runs", "import", "tensorboard", "--run", "new", "--json")
    assert code == 0 and [one["run"] for one in json.loads(out)] == ["new"]
    assert kgpt(capsys, "runs", "import", "tensorboard")[0] == 1  # there is a run `demo`
    code, out, _ = kgpt(capsys, "runs", "show", "new")
    assert code == 0 and "20 of 20" in out and "4.5000" in out
    assert {one.name for one in all_runs()} == {"demo", "new"}


def test_a_run_of_another_trainer_gets_the_names_of_kgpt(tmp_path, run):
    foreign = TrackedRun("My run!", {"optimizer": {"lr": 3}, "n_layer": 2})
    foreign.add_row(7, 5.0, {"train/loss": 3.0, "iter": 100, "train/learning_rate": 0.1})
    foreign.add_row(8, 9.0, {"eval/loss": 2.5, "iter": 200, "accuracy": 0.5, "note": "x"})
    trackio_files.write(foreign, tmp_path, "other")
    (imported,) = import_runs(tmp_path / "other.db")
    other = find_run("My-run")
    assert imported.renamed == {
        "train/loss": "loss", "eval/loss": "val_loss", "train/learning_rate": "lr"
    }  # fmt: skip
    assert other.metrics() == [
        {"step": 100, "time": 5.0, "loss": 3.0, "lr": 0.1},
        {"step": 200, "time": 9.0, "val_loss": 2.5, "accuracy": 0.5},
    ]
    assert other.status().state == "finished" and other.status().step == 200
    assert Config.load(str(other.path / "run.yaml")).train.max_steps == 200
    compared = compare([run, other])
    assert compared.differences["optimizer.lr"] == [None, 3]
    assert compare([run, other], axis="time").curves[1].x == [0.0]
    with pytest.raises(UsageError, match="How many tokens My-run has seen is not known"):
        compare([run, other], axis="tokens")


def test_what_is_no_number_is_counted(tmp_path, capsys):
    database = tmp_path / "p.db"
    with sqlite3.connect(database) as connection:  # as trackio made them before runs had an id
        connection.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY, timestamp TEXT, run_name TEXT,"
            " step INTEGER, metrics TEXT)"
        )
        values = {
            "loss": "NaN", "a": {"b": 2}, "h": {"_type": "trackio.histogram", "bins": []},
            "text": "x", "done": True, "step": 3,
        }  # fmt: skip
        connection.execute(
            "INSERT INTO metrics VALUES (1, '2026-01-01T00:00:00+00:00', 'r', 4, ?)",
            [json.dumps(values)],
        )
    code, out, _ = kgpt(capsys, "runs", "import", str(database))
    assert code == 0 and "1 histogram, 1 text, 1 true or false" in " ".join(out.split())
    (row,) = find_run("r").metrics()
    assert math.isnan(row.pop("loss"))
    assert row == {"step": 4, "time": 1767225600.0, "a.b": 2, "logged_step": 3}


def test_keras_folders_of_train_and_validation_are_one_run(tmp_path):
    for folder, value in (("train", 3.0), ("validation", 4.0)):
        one = TrackedRun(folder)
        one.add_row(0, 1.0, {"epoch_loss": value})
        tensorboard_files.write(one, tmp_path / "fit", "")
    import_runs(tmp_path)
    assert find_run("fit").metrics() == [{"step": 0, "time": 1.0, "loss": 3.0, "val_loss": 4.0}]


def test_runs_that_are_called_the_same_are_numbered(tmp_path):
    for folder in ("a", "b"):
        one = TrackedRun("same")
        one.add_row(1, 1.0, {"loss": 1.0})
        tensorboard_files.write(one, tmp_path / folder, "")
    assert [one.run for one in import_runs(tmp_path)] == ["same", "same-2"]
    with pytest.raises(UsageError, match="2 runs, which cannot all be called x"):
        import_runs(tmp_path, name="x")
    with pytest.raises(RunError, match="same exists already"):
        import_runs(tmp_path)


def test_nothing_is_overwritten(run, tmp_path):
    for tracker in ("tensorboard", "trackio"):
        export_runs([run], tracker, tmp_path)
        with pytest.raises(UsageError, match="already; give another"):
            export_runs([run], tracker, tmp_path)
    with pytest.raises(UsageError, match="tensorboard and trackio; choose one with --from"):
        import_runs(tmp_path)


def test_files_of_other_kinds_are_refused(tmp_path):
    for file, words in (
        ("notes.txt", "holds no event file"),
        ("x.tfevents", "is damaged, or no event file"),
        ("x.wandb", "is damaged, or of another kind"),
        ("missing", "There is nothing at"),
    ):
        if file != "missing":
            (tmp_path / file).write_bytes(b"0123456789abcdef" * 9)
        with pytest.raises((KgptError, DataError), match=words):
            import_runs(tmp_path / file)


def test_the_end_that_a_crash_cut_off_is_left_out(run, tmp_path):
    for tracker in ("tensorboard", "wandb"):
        export_runs([run], tracker, tmp_path / tracker)
        module, pattern = {
            "tensorboard": (tensorboard_files, "*tfevents*"),
            "wandb": (wandb_files, "offline-run-*/*.wandb"),
        }[tracker]
        (file,) = (tmp_path / tracker).rglob(pattern)
        content = file.read_bytes()
        for cut in (5, 60):
            file.write_bytes(content[:-cut])
            (found,) = module.read(file)
            assert 1 <= len(found.rows) <= 3
            for row, whole in zip(found.rows, ROWS, strict=False):
                assert row.items() <= whole.items()
            assert tracker != "wandb" or found.state == "stopped"
        damaged = bytearray(content)
        damaged[len(content) // 2] ^= 1
        file.write_bytes(bytes(damaged))
        with pytest.raises(DataError, match="is damaged"):
            module.read(file)


def log_of(contents):
    """Records as W&B writes them, by the format's description."""
    import zlib

    made = bytearray(MAGIC + b"\0")
    for content in contents:
        rest, first = content, True
        while True:
            left = BLOCK_BYTES - len(made) % BLOCK_BYTES
            if left < PIECE.size:
                made += bytes(left)
                continue
            data, rest = rest[: left - PIECE.size], rest[left - PIECE.size :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[
                first, not rest
            ]
            made += struct.pack("<IHB", zlib.crc32(bytes([kind]) + data), len(data), kind) + data
            first = False
            if not rest:
                break
    return bytes(made)


lengths_of_records = st.integers(0, 3 * BLOCK_BYTES) | st.integers(BLOCK_BYTES - 24, BLOCK_BYTES)


@given(st.lists(lengths_of_records, max_size=5))
def test_records_of_any_length_are_read_across_blocks(lengths):
    contents = [os.urandom(7) * (length // 7) + b"x" * (length % 7) for length in lengths]
    assert list(records(log_of(contents))) == contents


def test_a_changed_byte_in_a_record_is_noticed():
    content = log_of([b"abc", b"defg"])
    for at in range(len(MAGIC) + 1, len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 64
        with contextlib.suppress(DataError):  # or the length is beyond the end, which is cut off
            assert list(records(bytes(damaged))) in ([], [b"abc"])
    damaged = content[:-1] + b"h"
    with pytest.raises(DataError, match="checksum"):
        list(records(damaged))


names = st.sampled_from(["loss", "train/loss", "eval_loss", "val_loss", "Loss/train", "lr", "x"])


@given(st.lists(names, unique=True))
def test_renaming_loses_no_metric(metrics):
    renamed = map_names(metrics)
    (row,) = rename([{"step": 1, "time": 0.0, **{name: i for i, name in enumerate(metrics)}}],
                    renamed)  # fmt: skip
    assert len(row) == len(metrics) + 2
    assert ("loss" in row) == any(name in metrics for name in ("loss", "train/loss", "Loss/train"))


def test_a_step_that_is_logged_twice_has_its_last_values(run):
    run.append("metrics", {"step": 10, "time": 1.7e9 + 30, "loss": 3.0})
    rows = tracked(run).rows
    assert [row["step"] for row in rows] == [1, 10, 20]
    assert rows[1] == {**ROWS[1], "loss": 3.0, "time": 1.7e9 + 30}


def test_a_tracker_that_is_not_installed_names_the_extra(run, monkeypatch):
    monkeypatch.setattr("kgpt.lab.trackers.formats.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"kgpt\[tracking\]"):
        export_runs([run], "wandb")
