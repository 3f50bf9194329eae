"""Many processes train one run as one process does: killed, resumed by more and by fewer."""

import os
import random
import time
from pathlib import Path

import pytest

from kgpt.launch.commands import free_port
from tests.training.children import finish, losses
from tests.training.process_groups import STEPS, Group, assert_close, launch, run_config

pytestmark = [
    pytest.mark.backend,
    pytest.mark.proof,
    pytest.mark.usefixtures("quick_xla"),
    pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "jax", reason="one process there"),
]

STOPPED_WITHIN_S = 30


@pytest.fixture
def config(data):
    return run_config(data)


def process_ids(parent):
    """The pids of the processes that a launcher has started, by rank."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children]


def test_killed_with_2_processes_and_resumed_with_4_and_with_1(config, tmp_path):
    """Its batches and losses are those of one process that is never killed; nothing is lost."""
    chance = random.Random(STEPS)
    whole = finish(tmp_path, config, "whole", "jax")

    group = launch(tmp_path, config, "group", 2)
    step = chance.randint(6, STEPS // 3)
    group.wait_for_step(step)
    killed = chance.randrange(2)
    os.kill(process_ids(group.processes[0].pid)[killed], 9)
    begun = time.monotonic()
    assert group.wait(STOPPED_WITHIN_S) == [1]
    assert f"Process {killed} ended by SIGKILL, and the others were stopped" in group.output
    print(f"killed process {killed} at step {step}; ended in {time.monotonic() - begun:.1f} s")

    # The 4 shard the parameters, too, so that the checkpoint is of parts of each process.
    mesh = ["--distribute.data", "4", "--distribute.fsdp", "true"]
    stop = ["--stop-at", str(STEPS * 2 // 3)]
    group = launch(tmp_path, config, "group", 4, "--resume", *mesh, *stop)
    assert group.wait() == [0], group.output
    parts = group.run.checkpoint_path(STEPS * 2 // 3).glob("model-*-of-00004.safetensors")
    assert len(list(parts)) > 1
    mesh = ["--distribute.data", "1", "--distribute.fsdp", "false"]
    run = finish(tmp_path, config, "group", "jax", "--resume", *mesh)

    assert list(losses(run)) == list(range(1, STEPS + 1)), "a step is lost, or there twice"
    assert_close(whole, run)
    assert [row["text"] for row in run.samples()] == [row["text"] for row in whole.samples()]
    assert run.checkpoint_steps()[-1] == STEPS


def start_alone(folder, config, run):
    """Two processes without a launcher, as a scheduler starts them."""
    file, port = folder / f"{run}.yaml", free_port()
    file.write_text(config.to_yaml())
    place = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
    train = ["train", str(file), "--run", run, *place, "--process-id"]
    return Group(folder, run, [[*train, "0"], [*train, "1"]])


@pytest.mark.parametrize("lost", [0, 1])
def test_without_a_launcher_a_lost_process_ends_the_other(lost, config, tmp_path):
    config.train.max_steps = 100_000
    group = start_alone(tmp_path, config, "alone")
    group.wait_for_step(5)
    group.processes[lost].kill()
    other = group.processes[1 - lost]
    assert other.wait(STOPPED_WITHIN_S) != 0
    text = group.files[1 - lost].read_text()
    if lost == 1:
        assert "kgpt: Process 1 of 2 is lost; its own output says why" in text
        status = group.run.status()
        assert status.state == "failed" and "Process 1 of 2 is lost" in (status.error or "")
    else:  # which is JAX's coordinator: either kgpt or JAX says so first
        assert "Process 0" in text or "another task died" in text


def test_one_process_that_is_asked_to_stop_stops_all(config, tmp_path):
    """As when one machine is taken away: SIGTERM saves, at the same step in all."""
    config.train.max_steps = 100_000
    group = start_alone(tmp_path, config, "stopped")
    group.wait_for_step(5)
    group.processes[1].terminate()
    assert group.wait(60) == [130, 130]
    status = group.run.status()
    assert status.state == "stopped"
    assert group.run.checkpoint_steps()[-1] == status.step
