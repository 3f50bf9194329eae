"""Whole runs in half precision."""

import json

import pytest

from kgpt.training import pretraining
from tests.training.tiny_runs import DROPOUT, Trained, flip_a_byte, make_config

pytestmark = pytest.mark.backend


FLOAT16 = pytest.param("float16", marks=pytest.mark.portable)


@pytest.mark.parametrize("precision", ["bfloat16", FLOAT16])
def test_low_precision_learns_and_resumes(data, precision, monkeypatch):
    """float16 begins with a loss scale too high: the steps it skips are steps all the same."""
    train = {"precision": precision, "max_steps": 8, "checkpoint_every": 4, "sample_every": 8}
    build = pretraining.build_model

    def overflowing(config):
        model = build(config)
        if precision == "float16":
            model.optimizer.dynamic_scale.assign(2.0**34)
        return model

    monkeypatch.setattr(pretraining, "build_model", overflowing)
    config = make_config(data, train=train, **DROPOUT)
    first = Trained(config)
    assert (first.outcome.state, first.outcome.step) == ("finished", 8)
    if precision == "bfloat16":
        assert first.losses[8] < first.losses[1]
    assert [row["step"] for row in first.run.samples()] == [8]
    facts = json.loads((first.run.checkpoint_path(8) / "trainer_state.json").read_text())
    assert facts["step"] == 8
    run = first.run
    flip_a_byte(run.checkpoint_path(8) / "trainer_state.json")
    again = Trained(config, resume=True)
    assert "resuming at step 4" in again.shown and again.outcome.step == 8
    assert again.losses == first.losses
