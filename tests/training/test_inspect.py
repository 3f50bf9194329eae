"""A step that is replayed has the loss that was recorded; its tokens and layers add up to it."""

import json

import numpy as np
import pytest

from kgpt.lab.inspect import inspect_step
from kgpt.lab.spikes import find_spikes
from tests.cli.running import kgpt
from tests.training.tiny_runs import Trained, make_config

pytestmark = pytest.mark.backend
OPTIONS = {"grad_accumulation": 2, "max_grad_norm": 0.5, "keep_checkpoints": 9}


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of 6 steps with dropout, with checkpoints at 2, 4 and 6."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KGPT_RUNS", str(tmp_path_factory.mktemp("runs")))
        return Trained(make_config(data, train=OPTIONS, model={"dropout": 0.2})).run


@pytest.mark.parametrize(
    ("step", "checkpoint"),
    [
        (4, 2),
        pytest.param(1, 0, marks=pytest.mark.portable),
        pytest.param(5, 4, marks=pytest.mark.portable),
    ],
)
def test_the_loss_is_the_recorded_one(run, step, checkpoint):
    found = inspect_step(run, step)
    recorded = run.metrics()[step - 1]
    assert (found.step, found.checkpoint) == (step, checkpoint)
    assert found.is_exact and found.loss == recorded["loss"]
    assert (found.lr, found.grad_norm) == (recorded["lr"], recorded["grad_norm"])
    weights = [token.weight for token in found.tokens]
    mean = np.average([token.loss for token in found.tokens], weights=weights)
    assert mean == pytest.approx(found.loss, rel=1e-5)
    norms = np.array(list(found.layers.values()))
    assert np.sqrt((norms**2).sum()) == pytest.approx(found.grad_norm, rel=1e-4)
    assert {"token_embedding", "block_0", "final_norm"} <= set(found.layers)
    assert len(found.rows) == 8 and found.highest(1)[0].loss == max(t.loss for t in found.tokens)
    for token in found.tokens[:20]:
        assert found.rows[token.row][token.position] == token.token_id


@pytest.mark.portable
def test_the_command_shows_and_prints_it(run, capsys, monkeypatch):
    monkeypatch.setattr("kgpt.cli.runs_inspect.prepare_process", lambda: None)
    monkeypatch.setattr("kgpt.cli.runs_inspect.silence_native_code", lambda: None)
    code, out, _ = kgpt(capsys, "runs", "inspect", run.path, "--step", "3")
    assert code == 0 and "replayed from the checkpoint of step 2" in out
    assert "the loss is the recorded number" in out and "block_0" in out
    code, out, _ = kgpt(capsys, "runs", "inspect", run.path, "--step", "3", "--json")
    values = json.loads(out)
    assert values["is_exact"] is True and len(values["texts"]) == 8
    code, _, err = kgpt(capsys, "runs", "inspect", run.path, "--step", "7")
    assert code == 2 and "has steps from 1 to 6" in err


def test_a_spike_is_found_and_a_slow_change_is_not():
    slow = [{"step": n, "loss": 3 - n / 100, "grad_norm": 1.0} for n in range(1, 60)]
    assert find_spikes(slow) == []
    slow[40]["loss"], slow[50]["grad_norm"] = 5.0, 9.0
    assert [(spike.step, spike.metric) for spike in find_spikes(slow)] == [
        (41, "loss"), (51, "grad_norm"),
    ]  # fmt: skip
