"""Whole runs that end early or look through averages: the weights are right all the same."""

import os
import sys

import numpy as np
import pytest

from kgpt.checkpoints.pretrained import load_model
from kgpt.cli import main
from kgpt.runs import Run, find_run, resolve_model
from kgpt.training import pretraining, trainer
from tests.training.children import start
from tests.training.tiny_runs import DROPOUT, Trained, make_config

pytestmark = [pytest.mark.backend, pytest.mark.portable]


def test_a_loss_that_is_no_number_stops_the_run(data, monkeypatch, capfd, tmp_path):
    """Exit code 1, one sentence, and the checkpoint before is still good.

    The loss of step 6 is the first that is no number; the next to look at it is the checkpoint of
    step 8, which is not saved.
    """
    rate = trainer.LRSchedule.at
    monkeypatch.setattr(
        trainer.LRSchedule, "at", lambda self, step: rate(self, step) if step != 4 else 1e38
    )
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    file = tmp_path / "tiny.yaml"
    train = {
        "max_grad_norm": None, "weight_decay": 0.0, "max_steps": 12, "log_every": 5,
        "checkpoint_every": 4,
    }  # fmt: skip
    config = make_config(data, train=train)
    file.write_text(config.to_yaml())
    with pytest.raises(SystemExit) as ending:
        main(["train", str(file), "--run", "spoiled", "--quiet"])
    assert ending.value.code == 1
    run = find_run("spoiled")
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err
    sentence = err.splitlines()[-1]
    assert sentence.startswith("kgpt: The ") and "between steps 6 and 8" in sentence
    assert "lower train.learning_rate" in sentence
    assert run.status().state == "failed" and "steps 6 and 8" in run.status().error
    assert run.checkpoint_steps() == [4] and [row["step"] for row in run.metrics()] == [1, 5]
    good = load_model(resolve_model("spoiled"))
    assert all(np.isfinite(v.numpy()).all() for v in good.trainable_variables)


def test_early_stopping_ends_a_run(data):
    """A rate of almost nothing cannot improve much; patience 1 ends it at the second validation."""
    train = {
        "learning_rate": 1e-12, "min_learning_rate": 0, "eval_every": 1, "early_stopping": 1,
        "max_steps": 50, "checkpoint_every": 0,
    }  # fmt: skip
    stopped = Trained(make_config(data, train=train))
    assert stopped.outcome.step < 50
    assert stopped.run.checkpoint_steps()[-1] == stopped.outcome.step


def test_stopped_at_a_step_and_resumed_it_equals_a_run_that_never_stopped(data):
    """Checkpoint, losses and the schedule; stopped between two checkpoints, and stopped again."""
    config = make_config(
        data, train={"checkpoint_every": 4, "eval_every": 2}, model=DROPOUT["model"]
    )
    whole = Trained(config, "whole")
    first = Trained(config, "paused", stop_at=3)
    assert (first.outcome.state, first.outcome.step, first.run.status().total_steps) == (
        "stopped", 3, 6,
    )  # fmt: skip
    again = Trained(config, "paused", resume=True, stop_at=3)
    assert "the run paused has 3 of 6 steps; raise --stop-at" in again.shown
    last = Trained(config, "paused", resume=True, stop_at=6)
    assert last.outcome.state == "finished" and last.losses == whole.losses
    lowest = [trained.outcome.best_val_loss for trained in (last, whole)]
    assert lowest[0] == lowest[1] is not None


def test_samples_with_averaged_weights_leave_the_weights_alone(data):
    """Validation and samples look through the averages; training goes on from the raw weights."""
    plain, averaged = (
        Trained(
            make_config(data, train={"ema_decay": ema, "eval_every": 2, "sample_every": 2}), name
        )
        for ema, name in ((0.0, "plain"), (0.9, "averaged"))
    )
    assert averaged.losses == plain.losses
    validated = [
        [row["val_loss"] for row in t.run.metrics() if "val_loss" in row] for t in (plain, averaged)
    ]
    assert validated[0] != validated[1]
    stored, raw = (
        load_model(t.run.checkpoint_path(6)).trainable_variables[0].numpy()
        for t in (averaged, plain)
    )
    assert np.abs(stored - raw).max() > 1e-5  # what is used later is the average


def test_without_memory_status_and_terminal_say_what_to_do(data, monkeypatch, capfd, tmp_path):
    def fit(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1099511627776 bytes.")

    monkeypatch.setattr(pretraining.GPT, "fit", fit)
    monkeypatch.setattr("os._exit", sys.exit)
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    file = tmp_path / "tiny.yaml"
    file.write_text(make_config(data).to_yaml())
    for _ in range(2):  # it made no step, so that its name is free again
        with pytest.raises(SystemExit) as ending:
            main(["train", str(file), "--run", "large", "--quiet"])
        assert ending.value.code == 1
        status, (out, err) = find_run("large").status(), capfd.readouterr()
        assert status.error.startswith("Out of memory; halve train.batch_size")
        assert (status.state, out, err) == ("failed", "", f"kgpt: {status.error}\n")


@pytest.mark.proof
def test_without_memory_a_run_fails_with_one_sentence(data, tmp_path):
    """Activations of terabytes. In a process of its own, which TensorFlow can make crash."""
    model = {"hidden_dim": 8, "num_heads": 1, "intermediate_dim": 1 << 18}
    train = {"batch_size": 1 << 16, "loss_chunk": 1 << 20}
    config = make_config(data, model=model, train=train)
    process = start(tmp_path, config, "large", os.environ["KERAS_BACKEND"])
    assert process.wait(timeout=300) == 1
    printed = (tmp_path / "large.err").read_text()
    sentence = printed.rpartition("kgpt: ")[2].strip()
    assert sentence.startswith("Out of memory; halve train.batch_size") and "\n" not in sentence
    assert "Traceback" not in printed and "double free" not in printed
    status = Run(tmp_path / "runs" / "large").status()
    assert (status.state, status.error) == ("failed", sentence)
