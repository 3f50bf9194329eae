"""The range test trains as a run does, finds where the loss falls, and leaves the model alone."""

import json
import math

import keras
import numpy as np
import pytest

from kgpt.errors import KgptError, UsageError
from kgpt.lab import learning_rate
from kgpt.lab.learning_rate import (
    ExponentialRates,
    find_learning_rate,
    range_test,
    steepest_index,
    summarize,
    valley_index,
)
from kgpt.training.task import make_task
from tests.cli.running import kgpt
from tests.training.tiny_runs import Trained, make_config

STEPS = 10
CONSTANT = {"max_steps": STEPS, "schedule": "constant", "warmup_steps": 0, "learning_rate": 0.01}


@pytest.mark.portable
@pytest.mark.backend
def test_at_one_rate_the_losses_are_those_of_a_run(data):
    config = make_config(data, train=CONSTANT | {"grad_accumulation": 2})
    found = find_learning_rate(config, 0.01, 0.01, STEPS)
    assert found.losses == list(Trained(config).losses.values())
    assert found.rates == [0.01] * STEPS and not found.diverged


@pytest.mark.portable
@pytest.mark.backend
def test_the_model_is_as_it_was(data):
    config = make_config(data, train={"max_steps": 2 * STEPS, "optimizer": "muon"})
    task = make_task(config)
    task.complete()
    model = task.build_model()
    batches = task.batches(model, 0)
    model.fit(task.batches(model, 2 * STEPS - 1), verbose=0, shuffle=False)
    variables = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    found = range_test(model, batches, 1e-4, 0.1, STEPS)
    assert np.isclose(found.rates[0], 1e-4) and np.isclose(found.rates[-1], 0.1)
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


def test_rates_grow_by_the_same_factor():
    rates = ExponentialRates(1e-5, 1.0, 11, 0.9)
    rates._first_step = 7
    made = [rates.at(7 + step) for step in range(11)]
    assert made[0] == 1e-5 and made[-1] == pytest.approx(1.0)
    assert np.allclose(np.diff(np.log10(made)), 0.5)


def test_it_ends_where_the_loss_diverges(monkeypatch):
    losses = iter([3.0] * 12 + [2.0] * 3 + [9.0, math.nan])
    monkeypatch.setattr(learning_rate, "read_step", lambda *_: {"loss": next(losses)})
    rates = ExponentialRates(1e-5, 1.0, 100, 0.0)
    rates.set_model(model := keras.Model())
    rates.set_params({})
    for step in range(1, 99):
        rates.on_step_end(step, {})
        if model.stop_training:
            break
    assert rates.diverged and len(rates.losses) == 16
    found = summarize(rates.rates, rates.losses, 0.0, rates.diverged)
    assert found.suggestion < rates.rates[-1] and len(found.smoothed) == 16


def curve(bottom, width=8, steps=60):
    """A loss that falls from 4 to 2 around a step, and rises at the end."""
    x = np.arange(steps)
    return (2 + 2 / (1 + np.exp((x - bottom) / width)) + np.exp((x - steps) / 3.0)).tolist()


@pytest.mark.parametrize("middle", [20, 30, 35])
def test_suggestions_are_where_the_loss_falls(middle):
    assert abs(steepest_index(curve(middle)) - middle) <= 1
    assert steepest_index(curve(middle)) != int(np.argmin(curve(middle)))
    valley = valley_index(curve(middle))
    assert 20 <= valley <= int(np.argmin(curve(middle)))


def test_a_loss_that_never_falls_and_one_that_is_lost_at_once_are_dealt_with():
    assert 0 <= valley_index([1.0] * 12) < 12
    assert summarize([0.1] * 12, [1.0] * 12, 0.0, False).suggestion == 0.1
    with pytest.raises(KgptError, match="diverged at a rate of 3.0e-01, after 2 steps"):
        summarize([0.2, 0.3, 0.4], [1.0, 2.0, math.nan], 0.0, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"low": 0.0}, "above 0"),
        ({"low": 1.0, "high": 0.1}, "from 1 to 0.1"),
        ({"steps": 3}, "at least 10 steps"),
        ({"smoothing": 1.0}, "below 1"),
    ],
)
def test_what_cannot_be_tested_is_refused(data, arguments, words):
    with pytest.raises(UsageError, match=words):
        find_learning_rate(make_config(data), **arguments)


def test_the_command_suggests_and_draws(data, tmp_path, capsys, monkeypatch):
    found = summarize(np.logspace(-5, 0, 60).tolist(), curve(30), 0.5, True)
    monkeypatch.setattr(learning_rate, "find_learning_rate", lambda *_: found)
    monkeypatch.setattr("kgpt.cli.lr_find.prepare_process", lambda _: None)
    words = ["lr-find", "llama-tiny", "--data", str(data)]
    code, out, _ = kgpt(capsys, *words, "--png", str(tmp_path / "rates.png"))
    assert code == 0 and f"--train.learning-rate {found.valley:.1e}" in out and "1.0e-05" in out
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = kgpt(capsys, *words, "--json")
    assert code == 0 and json.loads(out)["suggestion"] == found.valley
    assert kgpt(capsys, "lr-find", "llama-tiny")[0] == 2  # no data set
