"""The space of a sweep: what its forms mean, and what is refused before anything is trained."""

import pytest

from kgpt.config import Config, SweepConfig
from kgpt.errors import UsageError
from kgpt.lab.sweeps.halving import make_rungs, next_segments
from kgpt.lab.sweeps.settings import SweepSettings
from kgpt.lab.sweeps.space import Range, Space
from kgpt.lab.sweeps.suggest import suggest
from kgpt.lab.sweeps.trial import Trial

WIDE = {
    "train.learning_rate": "1e-4..1e-2:log",
    "train.optimizer": "adamw,muon",
    "train.beta_2": {"values": [0.95, 0.99], "when": {"train.optimizer": "adamw"}},
    "model.num_layers": "2..8",
    "train.warmup_steps": "0..200:50",
    "model.bias": [True, False],
    "train.max_grad_norm": "none,1",
}


def test_each_form_is_a_domain_of_its_option():
    domains = {parameter.key: parameter.domain for parameter in Space.parse(WIDE).parameters}
    assert domains == {
        "train.learning_rate": Range(1e-4, 1e-2, log=True),
        "train.optimizer": ("adamw", "muon"),
        "train.beta_2": (0.95, 0.99),
        "model.num_layers": Range(2, 8, is_int=True),
        "train.warmup_steps": Range(0, 200, step=50, is_int=True),
        "model.bias": (True, False),
        "train.max_grad_norm": (None, 1.0),
    }


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "space is empty"),
        ({"train.learning_rat": "1,2"}, "did you mean train.learning_rate?"),
        ({"train.learning_rate": "1e-2..1e-4"}, "not below 1e-4"),
        ({"train.weight_decay": "0..1:log"}, "with :log it is above 0"),
        ({"train.learning_rate": "-1..1"}, "greater than 0"),
        ({"train.batch_size": "0,8"}, "greater than or equal to 1"),
        ({"train.batch_size": "1.5..8"}, "valid integer"),
        ({"train.batch_size": "1..8:0.5"}, "The step 0.5"),
        ({"train.batch_size": "1...8"}, "it takes a range such as"),
        ({"train.batch_size": "8,8"}, "a value twice"),
        ({"train.optimizer": "adamw,sgd"}, "'adamw', 'lion' or 'muon'"),
        ({"train.optimizer": "1..2"}, "list its values"),
        ({"train.sample_prompts": "a"}, "neither a number nor a word"),
        ({"train.seed": {"range": "1..2", "values": [1]}}, "either range or values"),
        ({"train.beta_2": WIDE["train.beta_2"]}, "must stand before it"),
        (
            {"train.optimizer": "lion,muon", "train.beta_2": WIDE["train.beta_2"]},
            "its values are lion, muon",
        ),
    ],
)
def test_what_no_option_can_be_is_refused(space, words):
    with pytest.raises(UsageError, match=words):
        Space.parse(space)


def test_the_grid_has_every_combination_once_without_values_that_are_not_set():
    names = ("train.optimizer", "train.beta_2", "train.warmup_steps")
    points = Space.parse({name: WIDE[name] for name in names}).grid()
    assert len(points) == (2 + 1) * 5 == len({str(point) for point in points})
    assert all(
        ("train.beta_2" in point) == (point["train.optimizer"] == "adamw") for point in points
    )
    with pytest.raises(UsageError, match="range with steps"):
        Space.parse(WIDE).grid()


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_values_depend_on_seed_number_and_the_trials_before_alone(sampler):
    space, config = Space.parse(WIDE), SweepConfig(sampler=sampler, seed=3)

    def values(config, quality=1.0):
        trials = []
        for number in range(14):  # the estimator learns from the 11th on
            params = suggest(space, config, number, trials)
            assert ("train.beta_2" in params) == (params["train.optimizer"] == "adamw")
            trials.append(
                Trial(number, params, "complete", {9: quality * params["train.learning_rate"]})
            )
        return [trial.params for trial in trials]

    found = values(config)
    assert values(config) == found != values(SweepConfig(sampler=sampler, seed=4))
    assert len({str(params) for params in found}) == 14
    other = values(config, quality=-1.0)
    assert other[:10] == found[:10] and (other == found) == (sampler == "random")


def test_halving_goes_on_with_the_best_and_stays_with_its_choice():
    rungs = make_rungs(900, 9, 3, 50, None)
    assert rungs == [100, 300, 900]

    def trial(number, *values, state="running"):
        return Trial(number, {}, state, dict(zip(rungs, values, strict=False)))

    first = [trial(number, value) for number, value in enumerate([5, 3, 4, 1, 9, 8, 7, 6])]
    assert next_segments(first, rungs, 9, 3, True) == ([], [])  # the ninth is not begun
    begun = [*first, Trial(8, {})]
    assert next_segments(begun, rungs, 9, 3, True) == ([(begun[8], 100)], [])
    failed = [*first, Trial(8, {}, "failed")]
    segments, pruned = next_segments(failed, rungs, 9, 3, True)
    assert [(one.number, stop) for one, stop in segments] == [(3, 300), (1, 300), (2, 300)]
    assert [one.number for one in pruned] == [0, 4, 5, 6, 7]
    # One of the three fails: none of the pruned takes its place, also not at the last rung.
    ended = [trial(n, v, state="pruned") for n, v in enumerate([5, 3, 4, 1, 9, 8, 7, 6])]
    ended[1], ended[2], ended[3] = trial(1, 3, 2.5), trial(2, 4, 2.75), trial(3, 1, state="failed")
    segments, pruned = next_segments([*ended, failed[8]], rungs, 9, 3, True)
    assert [(one.number, stop) for one, stop in segments] == [(1, 900)]
    assert [one.number for one in pruned] == [2]
    highest = next_segments(failed, rungs, 9, 3, False)[0]
    assert [one.number for one, _ in highest] == [4, 5, 6]


@pytest.mark.parametrize(
    ("train", "space", "options", "words"),
    [
        ({"eval_every": 0}, {"train.seed": "1,2"}, {}, "train.eval_every is 0"),
        ({}, {"train.seed": "1,2"}, {"sampler": "grid", "trials": 3}, "has 2 points"),
        ({}, {"train.max_steps": "5,9"}, {"pruner": "halving"}, "the same in all trials"),
        (
            {"eval_every": 2000},
            {"train.seed": "1,2"},
            {"pruner": "halving"},
            "lower train.eval_every",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(train, space, options, words, monkeypatch):
    monkeypatch.setattr("kgpt.lab.sweeps.settings.TokenDataset", lambda _: None)
    config = Config.parse({"data": {"dir": "data"}, "train": train})
    with pytest.raises(UsageError, match=words):
        SweepSettings(config, space, SweepConfig(**options)).check()
    with pytest.raises(UsageError, match="No data set"):
        SweepSettings(Config(), space, SweepConfig()).check()
