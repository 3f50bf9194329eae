"""Preferences: batches, the reference, and the losses of a model in training."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import kgpt
from kgpt import backend
from kgpt.checkpoints.adapters import adapter_variables
from kgpt.data.preference_dataset import (
    Completions,
    PreferenceDataset,
    UnpairedPreferenceDataset,
)
from kgpt.training.preference_loss import completion_log_probs
from tests.tiny import tiny_model

pytestmark = pytest.mark.backend

PAIRS = 5
LABELS = np.array([1.0] * PAIRS + [0.0] * PAIRS, "float32")
LOSSES = {
    "dpo": kgpt.DPOLoss(0.3), "ipo": kgpt.IPOLoss(0.3), "orpo": kgpt.ORPOLoss(0.3),
    "kto": kgpt.KTOLoss(0.3, 1.5, 0.5),
}  # fmt: skip


def completions(pairs=PAIRS, longest=15):
    """Random token ids: chosen completions, and then the rejected ones of the same prompts."""
    noise = np.random.default_rng(4)
    draw = lambda high: noise.integers(0, 259, noise.integers(1, high)).tolist()  # noqa: E731
    prompts = [draw(longest - 6) for _ in range(pairs)]
    return Completions([(prompt, draw(6)) for prompt in prompts * 2])


def data_of(kind, batch_size=2, **options):
    if kind == "kto":
        return UnpairedPreferenceDataset(completions(), LABELS, batch_size, **options)
    return PreferenceDataset(completions(), batch_size, **options)


def adapted():
    """A tiny model with adapters that change it."""
    model = tiny_model(seed=3, noise=0.3, num_layers=1)
    kgpt.add_lora(model, rank=2)
    noise = np.random.default_rng(5)
    for variable in adapter_variables(model).values():
        variable.assign(variable.numpy() + noise.normal(0, 0.1, variable.shape))
    return model


def loss_on(model, loss, batch):
    """The loss of a batch, without a gradient."""
    inputs, y, weights = keras.tree.map_structure(ops.array, batch)
    hidden = model.hidden_states(inputs)
    return float(backend.to_host(loss.from_model(model, inputs, hidden, y, weights, False)))


@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_batch_is_a_function_of_seed_and_number(kind):
    whole = data_of(kind, num_batches=9, seed=1)
    resumed = data_of(kind, num_batches=4, seed=1, start_batch=5)
    for number in range(4):
        for mine, theirs in zip(whole[5 + number], resumed[number], strict=True):
            for name in theirs if isinstance(theirs, dict) else [...]:
                np.testing.assert_array_equal(mine[name], theirs[name])


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_each_pair_once_and_learns_its_completions(shuffle):
    data, rows = data_of("dpo", shuffle=shuffle), completions()
    seen = []
    for number in range(len(data)):
        inputs, y, weights = data[number]
        chosen, rejected = np.split(np.arange(4), 2)
        for first, second in zip(chosen, rejected, strict=True):
            if not weights[first].any():
                assert not y["token_mask"][[first, second]].any()  # padding
                continue
            found = [
                (inputs[row][: int(y["token_mask"][row].sum()) + 1].tolist(),
                 y["targets"][row][weights[row] > 0].tolist())
                for row in (first, second)
            ]  # fmt: skip
            seen.append(tuple(learned for _, learned in found))
    expected = [
        tuple(rows.row(i)[1].tolist() for i in (pair, pair + PAIRS)) for pair in range(PAIRS)
    ]
    as_lists = sorted(map(repr, seen))
    assert as_lists == sorted(map(repr, expected))


def test_mismatched_completions_are_of_the_prompt_before():
    rows = completions()
    for number in range(len(rows)):
        prompt, other = rows.mismatched(100).row(number)
        np.testing.assert_array_equal(prompt, rows.row(number)[0])
        np.testing.assert_array_equal(other, rows.row(number - 1)[1])


@pytest.mark.parametrize(
    ("kind", "expected"), [("dpo", math.log(2)), ("ipo", (1 / 0.6) ** 2), ("kto", None)]
)
def test_a_model_that_is_its_reference_has_the_loss_of_no_preference(kind, expected):
    model, data, loss = tiny_model(seed=3, noise=0.3, num_layers=1), data_of(kind), LOSSES[kind]
    data.reference = kgpt.reference_log_probs(model, data)
    for number in range(len(data)):
        batch = data[number]
        labels = batch[1].get("labels")
        if labels is not None:
            counted = batch[2].any(axis=1)
            expected = 0.5 * np.where(labels > 0, 1.5, 0.5)[counted].mean()
        assert loss_on(model, loss, batch) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_padding_changes_nothing(kind):
    """The last batch is not full; alone, its rows are the same loss."""
    model, loss = adapted(), LOSSES[kind]
    data = data_of(kind, batch_size=16, shuffle=False)
    inputs, y, weights = data[0]
    rows = np.flatnonzero(weights.any(axis=1))
    assert len(rows) < len(weights)
    alone = inputs[rows], {name: value[rows] for name, value in y.items()}, weights[rows]
    assert loss_on(model, loss, data[0]) == pytest.approx(loss_on(model, loss, alone), rel=1e-5)


def test_the_reference_of_adapters_is_the_model_without_them():
    model, data = adapted(), data_of("dpo")
    base = tiny_model(seed=3, noise=0.3, num_layers=1)
    own, of_base = (kgpt.reference_log_probs(m, data)["reference_log_probs"] for m in (model, base))
    np.testing.assert_allclose(own, of_base, atol=1e-5)
    inputs, y, weights = keras.tree.map_structure(ops.array, data[0])
    batch = inputs, y["targets"], weights
    with_adapters = backend.to_host(completion_log_probs(model, *batch))
    without = backend.to_host(LOSSES["dpo"].reference(model, *batch))
    assert np.abs(with_adapters - without).max() > 0.1
    rows = data.rows(0)[0]
    np.testing.assert_allclose(without[: len(rows)], own[rows], atol=1e-4)


@pytest.mark.parametrize("kind", ["dpo", pytest.param("kto", marks=pytest.mark.portable)])
def test_training_with_the_reference_in_the_step_or_before_it(kind):
    """The same losses and metrics, and they are those of `from_model`."""
    found = []
    for precomputed in (False, True):
        model, loss = adapted(), type(LOSSES[kind])(0.3)
        data = data_of(kind, batch_size=8, num_batches=3, seed=2)
        if precomputed:
            data.reference = kgpt.reference_log_probs(model, data)
        first = loss_on(model, loss, data[0])
        model.compile(kgpt.AdamW(0.003), loss)
        history = [
            model.train_on_batch(*data[number], return_dict=True) for number in range(len(data))
        ]
        logs = [{name: float(value) for name, value in row.items()} for row in history]
        assert set(logs[0]) == {"loss", *loss.METRICS}
        assert logs[0]["loss"] == pytest.approx(first, rel=1e-4)
        found.append(logs)
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    margins = [row["rewards/margins"] for row in found[0]]
    assert margins[2] > margins[0]


def test_a_loss_without_reference_or_adapters_says_what_to_do():
    model = tiny_model()
    with pytest.raises(kgpt.UsageError, match="reference_log_probs"):
        loss_on(model, kgpt.DPOLoss(), data_of("dpo")[0])


def test_label_smoothing_is_the_share_of_pairs_that_are_the_wrong_way_round():
    margins = [1.7, -0.4]
    of = lambda smoothing, sign: [  # noqa: E731
        float(kgpt.DPOLoss(1.0, smoothing).of_ratios(sign * m, 0.0, 1.0, 1.0)) for m in margins
    ]
    right, wrong = np.array(of(0.0, 1)), np.array(of(0.0, -1))
    np.testing.assert_allclose(of(0.2, 1), 0.8 * right + 0.2 * wrong, rtol=1e-5)
