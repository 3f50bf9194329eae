"""The callbacks one by one, on a model that is only a name."""

import errno
import json
import sys
import threading
import time
import types

import pytest

from kgpt.checkpoints.parts import Part
from kgpt.config import Config
from kgpt.errors import CheckpointError, KgptError, TrainingFailed, UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt, sha256
from kgpt.runs import Run
from kgpt.training.callbacks import checkpointing as checkpoints_module
from kgpt.training.callbacks.checkpointing import CheckpointSaver
from kgpt.training.callbacks.early_stopping import EarlyStopping, StopOnNaN
from kgpt.training.callbacks.metrics_logger import MetricsLogger
from kgpt.training.callbacks.status_writer import StatusWriter
from kgpt.training.callbacks.trackers import make_trackers
from kgpt.training.parallel_checkpoint import work_folder


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

    def write(folder, state, tokenizer=None, sampling=None):
        with atomic_dir(folder) as work:
            (work / "trainer_state.json").write_text(json.dumps(state.metadata))
            sums = {"trainer_state.json": sha256(work / "trainer_state.json")}
            (work / "checksums.json").write_text(json.dumps(sums))

    monkeypatch.setattr(checkpoints_module, "copy_state", copies_of(Part(0, 1)))
    monkeypatch.setattr(checkpoints_module, "write_checkpoint", write)


def copies_of(part):
    """A `copy_state` that copies the facts alone."""
    return lambda model, stored, **facts: types.SimpleNamespace(metadata=facts, part=part)


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


def after_steps(guard, losses):
    """`guard` after steps with these losses, from step 1 on."""
    for batch, loss in enumerate(losses):
        guard.on_train_batch_end(batch, {"loss": loss})


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_raises(loss):
    guard = placed(StopOnNaN())
    after_steps(guard, [2.0, 1.0])
    with pytest.raises(TrainingFailed, match=f"became {loss} at step 3; the last checkpoint is"):
        after_steps(guard, [loss])


def test_a_gradient_that_is_no_number_raises():
    guard = placed(StopOnNaN(), types.SimpleNamespace(variables=[]))
    guard.model.optimizer.gradient_norm = types.SimpleNamespace(value=float("inf"))
    with pytest.raises(TrainingFailed, match="The gradient became inf at step 1"):
        after_steps(guard, [2.0])


def test_losses_are_looked_at_when_due_and_the_steps_between_are_named():
    class Unread:
        def __array__(self, *options):
            raise AssertionError("the loss was read")

    guard = placed(StopOnNaN(every=(0, 4, 6), total_steps=9))
    losses = [2.0, *[Unread()] * 2, 2.0, Unread(), 2.0, Unread(), 2.0, 2.0, Unread()]
    after_steps(guard, losses)
    guard._logs = {"loss": float("nan")}
    with pytest.raises(TrainingFailed, match="became nan at step 10"):
        guard.check()
    after_steps(guard, [Unread()])
    with pytest.raises(TrainingFailed, match="became nan between steps 10 and 12"):
        after_steps(guard, [float("nan")])


def test_nothing_is_saved_before_the_check(run, saving):
    def check():
        raise TrainingFailed("no number")

    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, check=check))
    with pytest.raises(TrainingFailed):
        keeper.on_step_end(1, {})
    assert run.checkpoint_steps() == []


def test_the_last_k_and_the_best_are_kept(run, saving):
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, keep=2))
    for step, loss in enumerate([3.0, 1.0, 2.0, 2.0, 2.0], start=1):
        keeper.on_step_end(step, {"val_loss": loss})
    keeper.wait()
    assert run.checkpoint_steps() == [2, 4, 5]
    assert (run.pointer("best"), run.pointer("latest")) == (2, 5)
    keeper.on_step_end(6, {"val_loss": 0.5})
    keeper.wait()
    assert run.checkpoint_steps() == [5, 6] and run.pointer("best") == 6


@pytest.mark.parametrize("count", [1, 2])
def test_what_others_write_of_the_next_one_is_left_alone(run, saving, monkeypatch, count):
    """In a group another process may be a checkpoint ahead; alone, it is what a crash left."""
    monkeypatch.setattr(checkpoints_module, "copy_state", copies_of(Part(0, count)))
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9))
    parts = work_folder(run.checkpoint_path(2))
    keeper.on_step_end(1, {})
    keeper.wait()
    assert parts.is_dir() == (count > 1)


def test_nothing_is_deleted_before_the_new_one_is_proved(run, saving, monkeypatch):
    """A checkpoint that cannot be read back leaves the only good one alone."""
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, keep=1))
    keeper.on_step_end(1, {})
    keeper.wait()

    def damaged(folder):
        raise CheckpointError(f"{folder} is damaged")

    monkeypatch.setattr(checkpoints_module, "verify", damaged)
    keeper.on_step_end(2, {})
    with pytest.raises(CheckpointError):
        keeper.wait()
    assert 1 in run.checkpoint_steps() and run.pointer("latest") == 1


def test_it_saves_when_due_at_the_end_and_when_stopped(run, saving):
    keeper = placed(CheckpointSaver(run, every=4, total_steps=10, keep=9))
    for step in range(1, 11):
        keeper.model.stop_training = step == 7
        keeper.on_step_end(step, {})
    keeper.wait()
    assert run.checkpoint_steps() == [4, 7, 8, 10]


@pytest.fixture
def held(monkeypatch, saving):
    """Writing a checkpoint waits for this event."""
    event, write = threading.Event(), checkpoints_module.write_checkpoint

    def wait_and_write(*arguments):
        assert event.wait(10)
        write(*arguments)

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", wait_and_write)
    return event


def test_training_goes_on_while_a_checkpoint_is_written(run, held):
    """`latest` and `best` name it only when it is complete."""
    keeper = placed(CheckpointSaver(run, every=2, total_steps=9, status=StatusWriter(run)))
    keeper.on_step_end(2, {"val_loss": 1.0})
    keeper.on_step_end(3, {})
    assert run.status().state != "saving"
    assert run.checkpoint_steps() == [] and run.pointer("latest") is None
    held.set()
    keeper.on_train_end()
    assert run.checkpoint_steps() == [2]
    assert (run.pointer("best"), run.pointer("latest")) == (2, 2)


def test_one_checkpoint_at_a_time(run, held):
    """The next waits, with the state "saving", before it copies anything."""
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9, status=StatusWriter(run)))
    keeper.on_step_end(1, {})
    next_step = threading.Thread(target=keeper.on_step_end, args=(2, {}))
    next_step.start()
    deadline = time.monotonic() + 10
    while run.status().state != "saving":
        assert time.monotonic() < deadline
    assert next_step.is_alive() and run.checkpoint_steps() == []
    held.set()
    next_step.join()
    keeper.wait()
    assert run.checkpoint_steps() == [1, 2]


def test_a_full_disk_is_told_at_the_next_step(run, saving, monkeypatch):
    def full(*arguments):
        with os_errors_as_kgpt("save the checkpoint"):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints_module, "write_checkpoint", full)
    sentence = "Could not save the checkpoint: the disk is full"
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9))
    keeper.on_step_end(1, {})
    keeper._task._result.exception()  # until it has failed
    with pytest.raises(KgptError, match=sentence):
        keeper.on_step_end(2, {})
    keeper.save(3)
    with pytest.raises(KgptError, match=sentence):
        keeper.on_train_end()
    keeper.save(4)
    keeper.wait_after(TrainingFailed)  # the other failure is the one that is told
    assert run.checkpoint_steps() == []
    keeper.on_train_end()


def test_an_error_waits_for_the_checkpoint_and_a_second_interrupt_does_not(run, held):
    keeper = placed(CheckpointSaver(run, every=1, total_steps=9))
    keeper.save(1)
    keeper.wait_after(KeyboardInterrupt)
    assert run.checkpoint_steps() == []
    held.set()
    keeper.wait_after(TrainingFailed)
    assert run.checkpoint_steps() == [1]


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


def test_a_block_within_another_is_not_timed_twice(run):
    keeper = StatusWriter(run)
    start = time.perf_counter()
    with keeper.state("paused"), keeper.state("sampling"):
        time.sleep(0.05)
    assert 0.05 <= keeper.non_training_s <= time.perf_counter() - start
    keeper.note(step=7)
    keeper.end("stopped")
    assert run.status().step == 7


def test_a_rate_over_no_time_is_not_written(run, monkeypatch):
    keeper = StatusWriter(run)
    logger = MetricsLogger(keeper, 1, 10, tokens_per_step=1000, tokens_per_epoch=1000)
    logger._last_row = (1, logger._training_time() + 60)  # a clock that was set back
    assert logger._throughput(2) == {}
    logger._last_row = (1, logger._training_time() - 1)
    assert 0 < logger._throughput(2)["tokens_per_s"] < 1001
    keeper.end("stopped")


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
    with pytest.raises(UsageError, match="wandb, which is not installed"):
        make_trackers(Config.parse({"train": {"tracker": "wandb"}}), run)
