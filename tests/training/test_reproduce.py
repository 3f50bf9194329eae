"""A run trained again has the same losses, and what differs is said."""

import json

import pytest

from kgpt import backend
from kgpt.errors import RunError
from kgpt.lab import reproduce as reproduction
from kgpt.lab.reproduce import changes_since, compare_losses
from kgpt.runs import new_run, parent_of
from tests.cli.running import kgpt
from tests.training.tiny_runs import DROPOUT, Trained, make_config

pytestmark = [pytest.mark.backend, pytest.mark.portable]
SHORT = {"max_steps": 4, "eval_every": 2, "eval_batches": 1}


@pytest.fixture
def run(data):
    return Trained(make_config(data, train=SHORT, **DROPOUT)).run


def test_a_run_is_repeated_and_so_is_a_fork(run, data, capsys, monkeypatch):
    monkeypatch.setattr("kgpt.cli.runs_reproduce.prepare_process", lambda: None)
    code, out, _ = kgpt(capsys, "runs", "reproduce", "run", "--json")
    found = json.loads(out)
    assert code == 0 and found["changes"] == {}
    assert found["losses"] == {"steps": 4, "first_difference": None, "max_difference": 0.0}
    assert new_run("run-again").metrics()[-1]["val_loss"] == run.metrics()[-1]["val_loss"]
    changed = make_config(data, train=SHORT | {"learning_rate": 0.02}, **DROPOUT)
    Trained(changed, "fork", fork_of="run@2")
    code, out, _ = kgpt(capsys, "runs", "reproduce", "fork", "--quiet", "--json")
    assert code == 0 and json.loads(out)["losses"]["steps"] == 4


def test_losses_that_differ_are_found(run, data):
    other = Trained(make_config(data, train=SHORT | {"seed": 6}, **DROPOUT), "other").run
    rows = run.metrics()
    rows[2]["loss"] += 0.5
    changed = new_run("changed")
    for row in rows:
        changed.path.mkdir(exist_ok=True)
        changed.append("metrics", row)
    assert compare_losses(run, changed).first_difference == 3
    assert compare_losses(run, changed).max_difference == pytest.approx(0.5)
    assert compare_losses(run, other).first_difference == 1
    assert not compare_losses(run, new_run("nothing")).is_equal


def test_what_a_failed_start_has_left_is_not_of_the_run(data):
    left = new_run("again")
    left.path.mkdir(parents=True)
    left.append("environment", {"step": 0, "backend": "another"})
    (left.path / "parent.json").write_text('{"run": "x", "path": "/x", "step": 1}')
    run = Trained(make_config(data, train=SHORT), "again").run
    assert parent_of(run) is None
    assert [start["backend"] for start in run.environments()] == [backend.name]


def test_what_differs_here_is_said(run, monkeypatch):
    (start,) = run.environments()
    assert start["step"] == 0 and {"keras", "python", "kgpt"} <= set(start["versions"])
    now = start | {"device": "gpu (H100)", "versions": start["versions"] | {"keras": "9"}}
    monkeypatch.setattr("kgpt.training.environment.environment", lambda: now)
    assert changes_since(run) == {
        "keras": (start["versions"]["keras"], "9"), "device": (start["device"], "gpu (H100)"),
    }  # fmt: skip
    run.append("environment", {**start, "step": 2, "versions": {**start["versions"], "keras": "8"}})
    changed = changes_since(run)["keras, when it was resumed"]
    assert changed == (start["versions"]["keras"], "8")
    (run.path / "environment.jsonl").unlink()
    with pytest.raises(RunError, match="does not say where it was trained"):
        reproduction.changes_since(run)
