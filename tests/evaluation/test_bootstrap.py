"""The bootstrap: intervals hold the truth as often as they say, and pairing finds small gains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kgpt.errors import DataError, UsageError
from kgpt.evaluation.bootstrap import estimate, paired_difference
from kgpt.evaluation.result import EvaluationResult, Sample, load_results, save_results, versions
from kgpt.evaluation.statistic import Statistic


def documents(random: np.random.Generator, number: int, loss: float) -> Statistic:
    """Losses of documents of different lengths, whose mean loss a token is `loss`."""
    tokens = random.integers(20, 200, number)
    losses = tokens * random.gamma(shape=20, scale=loss / 20, size=number)
    return Statistic.ratio(losses, tokens, "lower")


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_intervals_hold_the_truth_at_their_rate(confidence: float) -> None:
    random = np.random.default_rng(1)
    trials = 300
    intervals = [
        estimate(documents(random, 80, 3.0), 300, confidence, seed=trial) for trial in range(trials)
    ]
    held = sum(found.low <= 3.0 <= found.high for found in intervals) / trials
    error = 3 * np.sqrt(confidence * (1 - confidence) / trials)
    assert abs(held - confidence) <= error + 0.01  # percentile intervals of 80 items run narrow


def test_no_difference_is_found_at_the_rate_of_the_p_value() -> None:
    random = np.random.default_rng(2)
    found = []
    for trial in range(250):
        a = documents(random, 60, 3.0)
        noise = a.rows * np.stack([random.normal(1, 0.02, 60), np.ones(60)], axis=1)
        found.append(paired_difference(a, Statistic(noise, "ratio", "lower"), 200, seed=trial))
    share = sum(difference.p_value <= 0.05 for difference in found) / len(found)
    assert 0.02 <= share <= 0.09
    assert all((d.winner is not None) == (d.p_value < 0.05) for d in found if d.p_value > 0.08)


def test_pairing_finds_what_intervals_of_each_model_hide() -> None:
    random = np.random.default_rng(3)
    a = documents(random, 100, 3.0)
    b = Statistic(a.rows * [0.99, 1.0], "ratio", "lower")  # 1% better on each document
    difference = paired_difference(a, b)
    assert estimate(b).high > estimate(a).low  # the intervals overlap
    assert difference.winner == "B" and difference.p_value < 0.01
    assert difference.estimate.high < 0 and difference.estimate.value == b.value - a.value
    assert paired_difference(b, a).winner == "A"
    assert paired_difference(a, a).winner is None and paired_difference(a, a).p_value == 1


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    rows = np.array([[2.0, 2.0], [6.0, 2.0]])
    assert Statistic(rows, "exp_ratio").value == pytest.approx(np.exp(2.0))
    assert Statistic(rows, "exp_ratio").item_values == pytest.approx(np.exp([1.0, 3.0]))


def test_draws_do_not_depend_on_how_many_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    statistic = documents(np.random.default_rng(4), 50, 2.0)
    whole = estimate(statistic)
    monkeypatch.setattr("kgpt.evaluation.bootstrap.COUNTS_AT_ONCE", 170)
    assert estimate(statistic) == whole


def test_items_that_cannot_be_paired_are_refused() -> None:
    one, two = Statistic.mean([1.0], "higher"), Statistic.mean([1.0, 2.0], "higher")
    with pytest.raises(UsageError, match="on 1 and 2 items"):
        paired_difference(one, two)
    with pytest.raises(UsageError, match="nothing to evaluate"):
        estimate(Statistic(np.zeros((0, 2))))


def test_results_are_the_same_after_a_file(tmp_path: Path) -> None:
    statistic = documents(np.random.default_rng(5), 6, 2.0)
    result = EvaluationResult(
        "demo", {"sha256": "0"}, {"documents": 6}, {"stride": 4}, {"loss": estimate(statistic)},
        {"loss": statistic}, [Sample("a", "b", "c", {"length": 1.0})], versions("jax"),
    )  # fmt: skip
    save_results([result], tmp_path / "results.json")
    (read,) = load_results(tmp_path / "results.json")
    assert read.as_dict() == result.as_dict()
    assert np.array_equal(read.statistics["loss"].rows, statistic.rows)
    assert "statistics" not in result.as_dict(with_statistics=False)
    (tmp_path / "results.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(DataError, match=r"results\.json is damaged: format 2"):
        load_results(tmp_path / "results.json")
