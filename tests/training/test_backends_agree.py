"""The same run on three backends, and one run that moves from backend to backend."""

import shutil

import numpy as np
import pytest

from tests.training.children import BACKENDS, finish, losses
from tests.training.tiny_runs import make_config

pytestmark = pytest.mark.proof

STEPS, STOPPED = 70, 50


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """70 steps of a two-layer model on each backend, with a checkpoint at 50."""
    folder = tmp_path_factory.mktemp("agree")
    config = make_config(
        data,
        model={"num_layers": 2, "hidden_dim": 32},
        train={"max_steps": STEPS, "checkpoint_every": STOPPED, "warmup_steps": 10},
    )
    return folder, config, {b: finish(folder, config, b, b) for b in BACKENDS}


def test_the_first_50_losses_agree(runs):
    curves = [[losses(run)[step] for step in range(1, 51)] for run in runs[2].values()]
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-3)
    assert curves[0][-1] < 0.8 * curves[0][0]


@pytest.mark.parametrize("backend", ["torch", "tensorflow"])
def test_stopped_on_jax_it_goes_on_elsewhere(runs, backend):
    folder, config, finished = runs
    name = f"moved-to-{backend}"
    moved = folder / "runs" / name
    shutil.copytree(finished["jax"].path, moved)
    shutil.rmtree(moved / "checkpoints" / f"step-{STEPS:08d}")
    run = finish(folder, config, name, backend, "--resume")
    assert f"resuming at step {STOPPED} (saved on jax)" in run.log.read_text()
    ours, theirs = losses(run), losses(finished["jax"])
    assert sorted(ours) == sorted(theirs) == list(range(1, STEPS + 1))
    after = range(STOPPED + 1, STEPS + 1)
    np.testing.assert_allclose([ours[s] for s in after], [theirs[s] for s in after], rtol=1e-3)
