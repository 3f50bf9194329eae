"""Whole runs: what they leave behind, exact resume, commands, damage, failure."""

import json
import shutil
import threading
import time

import numpy as np
import pytest

from kgpt.cli import main
from kgpt.errors import RunError
from kgpt.model.directory import load_model
from kgpt.runs import Run, find_run, new_run, resolve_model
from kgpt.training import fit
from kgpt.training.callbacks.status import StatusKeeper
from kgpt.training.checkpoint import verify
from tests.training.conftest import Trained, make_config

pytestmark = pytest.mark.backend

DROPOUT = {"model": {"dropout": 0.2}}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of 6 steps with everything switched on, never interrupted."""
    states = []
    update = StatusKeeper.update

    def watched(keeper, **fields):
        states.append(fields.get("state"))
        update(keeper, **fields)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGPT_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(StatusKeeper, "update", watched)
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
        assert {"step", "time", "loss", "lr", "grad_norm"} <= row.keys()
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
    again = fit.Config.load(str(run.path / "run.yaml"))
    assert again.train.max_steps == 6 and again.model.vocab_size is not None


def test_its_states_are_honest(whole):
    assert whole.states[0] == "compiling" and whole.states[-1] == "finished"
    order = [state for state in whole.states if state != "training"]
    step_three = ["validating", "sampling", "saving"]
    assert order == ["compiling", "saving", *step_three, "saving", *step_three, "finished"]


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
    flip_a_byte(run.checkpoint_path(4) / "training.safetensors")
    again = Trained(config, resume=True, quiet=False)
    for step, name in ((6, "model.safetensors"), (4, "training.safetensors")):
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
    with pytest.raises(RunError, match="No checkpoint of the run run is undamaged"):
        Trained(make_config(data, **DROPOUT), resume=True)
    assert run.status().state == "failed" and "undamaged" in run.status().error


def test_a_loss_that_is_no_number_stops_the_run(data, monkeypatch, capfd, tmp_path):
    """Exit code 1, one sentence, and the checkpoint before is still good."""
    rate = fit.WarmupCosine.at
    monkeypatch.setattr(
        fit.WarmupCosine, "at", lambda self, step: rate(self, step) if step != 4 else 1e38
    )
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    file = tmp_path / "tiny.yaml"
    config = make_config(data, train={"clip_norm": None, "weight_decay": 0.0})
    file.write_text(config.to_yaml())
    with pytest.raises(SystemExit) as ending:
        main(["train", str(file), "--run", "spoiled", "--quiet"])
    assert ending.value.code == 1
    run = find_run("spoiled")
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("kgpt: The ") and "at step 6" in sentence
    assert "lower train.learning_rate" in sentence
    assert run.status().state == "failed" and "at step 6" in run.status().error
    assert run.checkpoint_steps() == [2, 4]
    good = load_model(resolve_model("spoiled"))
    assert all(np.isfinite(v.numpy()).all() for v in good.trainable_variables)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_low_precision_learns_and_resumes(data, precision, monkeypatch):
    """float16 begins with a loss scale too high: the steps it skips are steps all the same."""
    train = {"precision": precision, "max_steps": 8, "checkpoint_every": 4}
    build = fit.build_model

    def overflowing(config):
        model = build(config)
        if precision == "float16":
            model.optimizer.dynamic_scale.assign(2.0**34)
        return model

    monkeypatch.setattr(fit, "build_model", overflowing)
    config = make_config(data, train=train, **DROPOUT)
    first = Trained(config)
    assert (first.outcome.state, first.outcome.step) == ("finished", 8)
    if precision == "bfloat16":
        assert first.losses[8] < first.losses[1]
    facts = json.loads((first.run.checkpoint_path(8) / "training.json").read_text())
    assert facts["step"] == 8
    run = first.run
    flip_a_byte(run.checkpoint_path(8) / "training.json")
    again = Trained(config, resume=True)
    assert "resuming at step 4" in again.shown and again.outcome.step == 8
    assert again.losses == first.losses


def test_early_stopping_ends_a_run(data):
    """A rate of almost nothing cannot improve much; patience 1 ends it at the second validation."""
    train = {
        "learning_rate": 1e-12, "min_learning_rate": 0, "eval_every": 1, "early_stopping": 1,
        "max_steps": 50, "checkpoint_every": 0,
    }  # fmt: skip
    stopped = Trained(make_config(data, train=train))
    assert stopped.outcome.step < 50
    assert stopped.run.checkpoint_steps()[-1] == stopped.outcome.step


def test_samples_with_averaged_weights_leave_the_weights_alone(data):
    """Validation and samples look through the averages; training goes on from the raw weights."""
    plain, averaged = (
        Trained(make_config(data, train={"ema": ema, "eval_every": 2, "sample_every": 2}), name)
        for ema, name in ((0.0, "plain"), (0.9, "averaged"))
    )
    assert averaged.losses == plain.losses
    validated = [
        [row["val_loss"] for row in t.run.metrics() if "val_loss" in row] for t in (plain, averaged)
    ]
    assert validated[0] != validated[1]
    stored = load_model(averaged.run.checkpoint_path(6)).token_embedding.numpy()
    raw = load_model(plain.run.checkpoint_path(6)).token_embedding.numpy()
    assert np.abs(stored - raw).max() > 1e-5  # what is used later is the average


def copied(run: Run) -> Run:
    """A copy of a run under the name "run", where this test's runs live."""
    target = new_run("run")
    shutil.copytree(run.path, target.path)
    return target


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
