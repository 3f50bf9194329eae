"""A run killed twenty times, at any moment, ends with the losses of a run never killed."""

import os
import random
import time

import pytest

from tests.training.children import finish, losses, start
from tests.training.tiny_runs import make_config

pytestmark = [pytest.mark.backend, pytest.mark.proof]

STEPS, KILLS = 400, 20


def test_killed_at_20_random_moments(data, tmp_path):
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
        process = start(tmp_path, config, "killed", backend, *options)
        if life % 5 == 4:  # while it is starting
            time.sleep(moments.uniform(0.1, 1.0) * start_s)
        else:
            start_s = _wait_for_rows(process, metrics, moments.randint(1, 10))
            time.sleep(moments.uniform(0, 0.05))
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
        process.wait()
        killed_at.append(len(metrics.read_bytes().splitlines()))
    run = finish(tmp_path, config, "killed", backend, "--resume")
    assert losses(run) == losses(whole)
    assert sorted(losses(run)) == list(range(1, STEPS + 1))
    assert run.checkpoint_steps()[-1] == STEPS
    assert not list(run.checkpoints.glob(".partial-*"))
    print(f"{backend}: killed after the steps {killed_at}")


def _wait_for_rows(process, metrics, count):
    """Wait until this life has written `count` rows; returns seconds from start to the first."""
    begun, first = time.perf_counter(), None
    size = metrics.stat().st_size if metrics.exists() else 0
    rows = 0
    while rows < count:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
        now = metrics.stat().st_size if metrics.exists() else 0
        if now > size:
            rows += 1
            first = first or time.perf_counter() - begun
        size = now  # a resumed life begins by dropping rows
    return first
