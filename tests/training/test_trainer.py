"""Whole runs: what they leave behind, commands, exact resume, damage."""

import copy
import shutil
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import load_file

from kgpt.checkpoints.pretrained import load_model
from kgpt.checkpoints.weights import Weights
from kgpt.errors import RunError
from kgpt.runs import Run, new_run
from kgpt.training import trainer
from kgpt.training.callbacks import checkpointing
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.checkpoint import copy_state, verify, write_checkpoint
from tests.training.tiny_runs import DROPOUT, Trained, contents, flip_a_byte, make_config

pytestmark = [pytest.mark.backend, pytest.mark.portable]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of 6 steps with everything switched on, never interrupted."""
    states = []
    update = StatusWriter.update

    def watched(keeper, **fields):
        states.append(fields.get("state"))
        update(keeper, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGPT_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(StatusWriter, "update", watched)
        trained = Trained(
            make_config(data, train={"eval_every": 3, "sample_every": 3}, **DROPOUT), "whole"
        )
    trained.states = [state for state in states if state]
    return trained


def test_a_run_leaves_what_it_promises(whole):
    run = whole.run
    assert (whole.outcome.state, whole.outcome.step) == ("finished", 6)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert {"step", "time", "loss", "lr", "grad_norm", "cpu_percent", "rss_bytes"} <= row.keys()
        assert np.isfinite(row["loss"]) and row["grad_norm"] > 0
    assert all({"tokens_per_s", "mfu"} <= row.keys() for row in rows[1:])
    for row in (rows[2], rows[5]):
        assert row["val_perplexity"] == pytest.approx(np.exp(row["val_loss"]), rel=1e-4)
        # A character of this text is a byte, so bits per byte are bits per token.
        bits = row["val_loss"] / np.log(2)
        assert row["val_bits_per_byte"] == pytest.approx(bits, rel=0.01)
    assert rows[0]["lr"] == pytest.approx(0.01 / 3) and rows[2]["lr"] == pytest.approx(0.01)
    status = run.status()
    assert (status.state, status.step, status.total_steps) == ("finished", 6, 6)
    assert status.tokens_seen == 6 * 4 * 16 and 0 < status.epoch < 1
    samples = run.samples()
    assert [row["step"] for row in samples] == [3, 6]
    assert all(row["prompt"] == "\n" and row["text"] for row in samples)
    assert "step 6: loss" in run.log.read_text()
    assert run.checkpoint_steps()[-1] == run.pointer("latest") == 6
    again = trainer.Config.load(str(run.path / "run.yaml"))
    assert again.train.max_steps == 6 and again.model.vocab_size is not None
    card = run.checkpoint_path(6) / "README.md"
    assert "| 6 of 6 |" in card.read_text() and f"{rows[5]['val_loss']:.4f}" in card.read_text()


def test_its_states_are_honest(whole):
    assert whole.states[0] == "compiling" and whole.states[-1] == "finished"
    order = [state for state in whole.states if state != "training"]
    step_three = ["validating", "sampling", "saving"]
    expected = ["compiling", "saving", *step_three, "saving", *step_three, "saving", "finished"]
    assert order == expected  # at the end it waits until the last checkpoint is written


def test_a_checkpoint_written_late_is_the_state_at_its_step(data, monkeypatch):
    """The steps that follow while it is written change no bit of it."""
    states = {}

    def copy_and_remember(model, stored, **metadata):
        state = copy_state(model, stored, **metadata)
        states[metadata["step"]] = copy.deepcopy(state)
        return state

    def write_late(folder, state, *options):
        deadline = time.monotonic() + 30
        while state.metadata["step"] == 2 and len(new_run("late").metrics()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        write_checkpoint(folder, state, *options)

    monkeypatch.setattr(checkpointing, "copy_state", copy_and_remember)
    monkeypatch.setattr(checkpointing, "write_checkpoint", write_late)
    train = {"max_steps": 4, "ema_decay": 0.5}
    run = Trained(make_config(data, train=train), "late").run
    assert run.checkpoint_steps() == [2, 4]
    for step, state in states.items():
        folder = run.checkpoint_path(step)
        stored = load_file(folder / "optimizer.safetensors")
        assert stored.keys() == state.variables.keys()
        for name, value in state.variables.items():
            assert stored[name].tobytes() == value.tobytes(), (step, name)
        weights = Weights(folder, state.layout.config)
        for path, value in state.weights.items():
            assert weights.read(path).tobytes() == value.tobytes(), (step, path)
    name = next(name for name in states[2].variables if name.startswith("weights/"))
    assert np.any(states[2].variables[name] != states[4].variables[name])


def test_plain_lines_where_there_is_no_terminal(whole):
    lines = whole.shown.splitlines()
    assert sum(line.startswith("step ") for line in lines) == 6
    assert lines[-1].startswith("finished at step 6")
    assert "\x1b" not in whole.shown
    assert any(line.startswith("── sample at step 3") for line in lines)


def test_its_checkpoint_is_a_model_directory(whole):
    folder = whole.run.checkpoint_path(6)
    verify(folder)
    assert load_model(folder).config.dropout == pytest.approx(0.2)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / name).is_file()


def test_commands_then_stop_then_resume_gives_the_same_losses(whole, data, monkeypatch):
    """Dropout, schedule, optimizer and batches all go on as if nothing had happened."""
    train = {"eval_every": 3, "checkpoint_every": 0, "keep_checkpoints": 9}
    config = make_config(data, train=train, **DROPOUT)
    append, seen = Run.append, {}

    def commanding(run, kind, row):
        append(run, kind, row)
        if kind == "metrics" and row["step"] == 1:
            run.send("sample", prompt="one")
            run.send("checkpoint")
        if kind == "metrics" and row["step"] == 2:
            run.send("pause")
            threading.Thread(target=later, args=(run,)).start()
        if kind == "metrics" and row["step"] == 4:
            run.send("stop")

    def later(run):
        while run.status().state != "paused":
            time.sleep(0.02)
        seen["paused at"] = run.status().step
        time.sleep(0.3)
        seen["rows while paused"] = len(run.metrics())
        run.send("resume")

    monkeypatch.setattr(Run, "append", commanding)
    first = Trained(config, quiet=True)
    monkeypatch.setattr(Run, "append", append)
    assert (first.outcome.state, first.outcome.step) == ("stopped", 4)
    assert not first.outcome.interrupted and first.run.status().state == "stopped"
    assert seen == {"paused at": 2, "rows while paused": 2}
    assert first.shown == ""  # quiet
    assert [(row["step"], row["prompt"]) for row in first.run.samples()] == [(1, "one")]
    assert {1, 2, 4} <= set(first.run.checkpoint_steps())
    second = Trained(config, resume=True)
    assert "resuming at step 4" in second.shown
    assert (second.outcome.state, second.outcome.step) == ("finished", 6)
    assert second.losses == whole.losses  # exactly
    validated = [
        {row["step"]: row["val_loss"] for row in t.run.metrics() if "val_loss" in row}
        for t in (whole, second)
    ]
    assert validated[0] == validated[1]


def test_damaged_checkpoints_are_refused_and_the_one_before_is_used(whole, data):
    """With one checkpoint kept, the damaged later one must not push out the good ones."""
    config = make_config(data, train={"eval_every": 3, "keep_checkpoints": 1}, **DROPOUT)
    run = copied(whole.run)
    assert run.checkpoint_steps() == [3, 4, 6]
    flip_a_byte(run.checkpoint_path(6) / "model.safetensors")
    flip_a_byte(run.checkpoint_path(4) / "optimizer.safetensors")
    again = Trained(config, resume=True, quiet=False)
    for step, name in ((6, "model.safetensors"), (4, "optimizer.safetensors")):
        assert f"step-{step:08d} is damaged: {name} has changed" in again.shown
    assert "resuming at step 3" in again.shown
    assert again.losses == whole.losses
    assert 6 in run.checkpoint_steps()
    for step in run.checkpoint_steps():
        verify(run.checkpoint_path(step))
    assert run.pointer("latest") == 6 and run.pointer("best") in run.checkpoint_steps()


def test_when_all_are_damaged_it_says_so(whole, data):
    run = copied(whole.run)
    for step in run.checkpoint_steps():
        flip_a_byte(run.checkpoint_path(step) / "model.safetensors")
    before = contents(run)
    with pytest.raises(RunError, match="No checkpoint of the run run is undamaged"):
        Trained(make_config(data, **DROPOUT), resume=True)
    assert contents(run) == before and run.status().state == "finished"


def copied(run: Run) -> Run:
    """A copy of a run under the name "run", where this test's runs live."""
    target = new_run("run")
    shutil.copytree(run.path, target.path)
    return target
