"""Workers of a Ray cluster train one run as one process does."""

import os
from pathlib import Path

import pytest

from tests.training.children import finish, losses
from tests.training.process_groups import STEPS, assert_close, launch, run_config

pytestmark = [
    pytest.mark.backend,
    pytest.mark.proof,
    pytest.mark.usefixtures("quick_xla"),
    pytest.mark.skipif(os.environ["KERAS_BACKEND"] != "jax", reason="one process there"),
]


def test_workers_of_ray_are_started_again_and_go_on(data, tmp_path):
    """Through Ray Train's JaxTrainer, on a cluster of this machine."""
    pytest.importorskip("ray")
    config = run_config(data)
    whole = finish(tmp_path, config, "whole", "jax")
    options = ["--ray", "--processes", "2", "--max-failures", "1"]
    group = launch(tmp_path, config, "ray", 1, launcher=options)
    group.wait_for_step(10)
    os.kill(worker_process(tmp_path, rank=1), 9)
    assert group.wait() == [0], group.output
    run = group.run
    assert list(losses(run)) == list(range(1, STEPS + 1))
    assert_close(whole, run)
    assert len(run.environments()) == 2, "it was not started again"


def worker_process(folder, rank):
    """The pid of the process of this rank that trains a run in `folder`."""
    wanted = {f"KGPT_RUNS={folder / 'runs'}", f"KERAS_DISTRIBUTION_PROCESS_ID={rank}"}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if wanted <= set((process / "environ").read_text().split("\0")):
                return int(process.name)
        except OSError:
            continue  # it has ended, or is another user's
    raise AssertionError("there is no such process")
