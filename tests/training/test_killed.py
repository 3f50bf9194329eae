"""A run killed twenty times, at any moment, ends with the losses of a run never killed."""

import os
import random
import time

import pytest

from tests.training.children import finish, losses, start
from tests.training.conftest import make_config

pytestmark = [pytest.mark.backend, pytest.mark.slow]

STEPS, KILLS = 2000, 20
LONGEST_LIFE_S = 1.0  # after the first step of a life


def test_killed_at_20_random_moments(data, tmp_path):
    """Between steps, in the middle of one, while a checkpoint is written, while it is starting."""
    backend = os.environ["KERAS_BACKEND"]
    config = make_config(
        data, model={"dropout": 0.1}, train={"max_steps": STEPS, "checkpoint_every": 5}
    )
    whole = finish(tmp_path, config, "whole", backend)
    moments = random.Random(backend)
    killed_at = []
    for life in range(KILLS):
        options = ("--resume",) if life else ()
        process = start(tmp_path, config, "killed", backend, *options)
        killed_at.append(_kill_sometime(process, tmp_path / "runs" / "killed", moments, life))
    run = finish(tmp_path, config, "killed", backend, "--resume")
    assert losses(run) == losses(whole)
    assert len(losses(run)) == STEPS
    assert run.checkpoint_steps()[-1] == STEPS
    leftovers = [path.name for path in run.checkpoints.glob(".partial-*")]
    assert not leftovers
    print(f"{backend}: killed after the steps {killed_at}")


def _kill_sometime(process, folder, moments, life):
    """Kill `process` at a random moment after its first step; one time in five, before that."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    if life % 5 == 4:
        time.sleep(moments.uniform(0.5, 8))
    else:
        while not metrics.exists() or metrics.stat().st_mtime_ns == before:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.002)
        time.sleep(moments.uniform(0, LONGEST_LIFE_S))
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()
    rows = metrics.read_bytes().splitlines() if metrics.exists() else []
    return len(rows)
