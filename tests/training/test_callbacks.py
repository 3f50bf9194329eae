"""The callbacks one by one, on a model that is only a name."""

import json
import sys
import time
import types

import pytest

from kgpt.config import Config
from kgpt.errors import CheckpointError, TrainingFailed, UsageError
from kgpt.files import atomic_dir, sha256
from kgpt.runs import Run
from kgpt.training.callbacks import checkpointing as checkpoints_module
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.early_stopping import EarlyStopping, StopOnNaN
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.trackers import make_trackers


def placed(callback, optimizer=None):
    """`callback`, given a stand-in for a model."""
    callback.set_model(types.SimpleNamespace(stop_training=False, optimizer=optimizer))
    return callback


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def saving(monkeypatch):
    """Checkpoints that hold one small file."""

    def save(folder, model, tokenizer=None, sampling=None, **facts):
        with atomic_dir(folder) as work:
            (work / "trainer_state.json").write_text(json.dumps(facts))
            sums = {"trainer_state.json": sha256(work / "trainer_state.json")}
            (work / "checksums.json").write_text(json.dumps(sums))

    monkeypatch.setattr(checkpoints_module, "save_checkpoint", save)


def test_early_stopping_waits_for_its_patience():
    stopping = placed(EarlyStopping(2))
    for step, (loss, stops) in enumerate(
        [(3.0, False), (2.0, False), (2.5, False), (1.9, False), (1.9, False), (2.0, True)]
    ):
        stopping.on_step_end(step, {"val_loss": loss})
        stopping.on_step_end(step, {})  # steps without a validation do not count
        assert stopping.model.stop_training == stops, step


def test_early_stopping_remembers_what_came_before_a_resume():
    stopping = placed(EarlyStopping(2, history=[3.0, 2.0, 2.5]))
    stopping.on_step_end(9, {"val_loss": 2.2})
    assert stopping.model.stop_training


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_raises(loss):
    guard = placed(StopOnNaN())
    guard.step = 6
    guard.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(TrainingFailed, match=f"became {loss} at step 8.*last checkpoint is kept"):
        guard.on_train_batch_end(1, {"loss": loss})


def test_the_last_k_and_the_best_are_kept(run, saving):
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, keep=2))
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.0, 2.0], start=1):
        keeper.on_step_end(step, {"val_loss": loss})
    assert run.checkpoint_steps() == [2, 4, 5]
    assert (run.pointer("best"), run.pointer("latest")) == (2, 5)
    keeper.on_step_end(6, {"val_loss": 0.5})
    assert run.checkpoint_steps() == [5, 6] and run.pointer("best") == 6


def test_nothing_is_deleted_before_the_new_one_is_proved(run, saving, monkeypatch):
    """A checkpoint that cannot be read back leaves the only good one alone."""
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, keep=1))
    keeper.on_step_end(1, {})

    def damaged(folder):
        raise CheckpointError(f"{folder} is damaged")

    monkeypatch.setattr(checkpoints_module, "verify", damaged)
    with pytest.raises(CheckpointError):
        keeper.on_step_end(2, {})
    assert 1 in run.checkpoint_steps() and run.pointer("latest") == 1


def test_it_saves_when_due_at_the_end_and_when_stopped(run, saving):
    keeper = placed(CheckpointSaver(run, every=4, total_steps=10, keep=9))
    for step in range(1, 11):
        keeper.model.stop_training = step == 7
        keeper.on_step_end(step, {})
    assert run.checkpoint_steps() == [4, 7, 8, 10]


def test_the_status_file_has_state_progress_and_times(run):
    keeper = StatusWriter(run, backend="jax")
    keeper.update(state="training", step=3)
    assert (run.status().state, run.status().step, run.status().backend) == ("training", 3, "jax")
    with pytest.raises(ZeroDivisionError), keeper.state("validating"):
        assert run.status().state == "validating"
        1 / 0  # noqa: B018
    assert run.status().state == "training"
    assert keeper.non_training_s > 0
    assert not run.status().is_dead
    keeper.end("failed", "the reason")
    assert (run.status().state, run.status().error) == ("failed", "the reason")


def test_the_heart_beats_while_nothing_happens(run, monkeypatch):
    monkeypatch.setattr("kgpt.training.callbacks.status_writer.HEARTBEAT_INTERVAL_S", 0.02)
    keeper = StatusWriter(run)
    first = run.status().heartbeat
    deadline = time.monotonic() + 5
    while run.status().heartbeat == first and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.status().heartbeat > first
    keeper.end("stopped")


def test_tensorboard_events_can_be_read(run):
    import tensorflow as tf

    (rows,) = make_trackers(Config.parse({"train": {"tensorboard": True}}), run)
    rows({"step": 1, "time": 5.0, "loss": 2.5, "lr": 0.1})
    rows({"step": 2, "time": 6.0, "loss": 2.25, "val_loss": 2.0})
    rows.close()
    (file,) = (run.path / "tensorboard").glob("events.*")
    found = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found[event.step, value.tag] = float(tf.make_ndarray(value.tensor))
    assert found == pytest.approx(
        {(1, "loss"): 2.5, (1, "lr"): 0.1, (2, "loss"): 2.25, (2, "val_loss"): 2.0}
    )


def test_trackers_get_rows(run, monkeypatch):
    """wandb and trackio share the interface used here; neither is needed for this."""
    heard = []
    session = types.SimpleNamespace(
        log=lambda figures, step: heard.append((step, figures)), finish=lambda: heard.append("end")
    )
    fake = types.ModuleType("trackio")
    fake.init = lambda project, name, config: heard.append((project, name)) or session
    monkeypatch.setitem(sys.modules, "trackio", fake)
    (rows,) = make_trackers(Config.parse({"train": {"tracker": "trackio"}}), run)
    rows({"step": 3, "time": 1.0, "loss": 2.0})
    rows.close()
    assert heard == [("kgpt", "run"), (3, {"loss": 2.0}), "end"]


def test_a_tracker_that_is_not_installed_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install wandb"):
        make_trackers(Config.parse({"train": {"tracker": "wandb"}}), run)
