"""A run killed many times, at any moment, ends with the losses of a run never killed."""

import math
import os
import random
import time

import pytest

from tests.training.children import finish, losses, start
from tests.training.tiny_runs import make_config

pytestmark = [
    pytest.mark.backend,
    pytest.mark.proof,
    pytest.mark.usefixtures("quick_xla"),
]

STEPS, KILLS = 300, 8


def test_killed_at_random_moments(data, tmp_path):
    """Between steps, in the middle of one, while a checkpoint is written, while it is starting."""
    backend = os.environ["KERAS_BACKEND"]
    config = make_config(
        data, model={"dropout": 0.1}, train={"max_steps": STEPS, "checkpoint_every": 4}
    )
    whole = finish(tmp_path, config, "whole", backend)
    metrics = tmp_path / "runs" / "killed" / "metrics.jsonl"
    moments = random.Random(backend)
    killed_at, start_s = [], 0.0
    for life in range(KILLS):
        options = ("--resume",) if life else ()
        first_step = steps_logged(metrics) + 1
        last_step = STEPS * (life + 1) // (KILLS + 1)  # the lives that follow need steps, too
        process = start(tmp_path, config, "killed", backend, *options)
        if life % 4 == 3:  # while it is starting
            wait_for_step(process, metrics, last_step, moments.uniform(0.1, 1.0) * start_s)
        else:
            start_s = wait_for_step(process, metrics, first_step)
            wait_for_step(process, metrics, min(first_step + moments.randint(0, 9), last_step))
            wait_for_step(process, metrics, last_step, moments.uniform(0, 0.05))
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        killed_at.append(steps_logged(metrics))
    run = finish(tmp_path, config, "killed", backend, "--resume")
    assert losses(run) == losses(whole)
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    assert run.checkpoint_steps()[-1] == STEPS
    assert not list(run.checkpoints.glob(".partial-*"))
    print(f"{backend}: killed after the steps {killed_at}")


def steps_logged(metrics):
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def wait_for_step(process, metrics, step, timeout_s=math.inf):
    """Wait until `step` is logged, `timeout_s` at most; returns the seconds it took."""
    begun = time.perf_counter()
    while steps_logged(metrics) < step and time.perf_counter() - begun < timeout_s:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    return time.perf_counter() - begun
