"""Dropout: the right share, the right scale, and noise a function of (seed, count) alone."""

import keras
import numpy as np
import pytest

from kgpt import GPT, ModelConfig
from kgpt.model.layers import Dropout, DropoutKey
from tests.model.models import SMALL

pytestmark = pytest.mark.backend

RATE = 0.3


def built(name):
    layer = Dropout(RATE, name=name)
    layer.build(None)
    return layer


def dropped(layer, seed, count, shape=(64, 1000)):
    key = keras.ops.convert_to_tensor(np.array([seed, count], "int32"))
    return keras.ops.convert_to_numpy(layer(keras.ops.ones(shape), layer.layer_key(key)))


def test_share_and_scale():
    y = dropped(built("a"), 1, 1)
    np.testing.assert_allclose(np.unique(y), [0.0, 1 / (1 - RATE)], rtol=1e-6)
    n = y.size
    assert (y == 0).sum() == pytest.approx(n * RATE, abs=5 * np.sqrt(n * RATE * (1 - RATE)))
    assert (y == 0).mean(axis=0).max() < 0.7 and (y == 0).mean(axis=1).max() < 0.4


def test_noise_is_a_function_of_seed_and_count():
    layer = built("a")
    first = dropped(layer, 1, 1)
    np.testing.assert_array_equal(first, dropped(layer, 1, 1))
    np.testing.assert_array_equal(first, dropped(built("a"), 1, 1))
    for other in (dropped(layer, 2, 1), dropped(layer, 1, 2), dropped(built("b"), 1, 1)):
        agreement = (other == first).mean()
        assert agreement == pytest.approx(1 - 2 * RATE * (1 - RATE), abs=0.02)  # independent


def test_consecutive_seeds_and_counts_do_not_collide():
    """(seed 1, count 2) is not (seed 2, count 1), nor is any other pair alike."""
    layer = built("a")
    seen = {dropped(layer, s, c, (200,)).tobytes() for s in range(4) for c in range(4)}
    assert len(seen) == 16


def test_without_a_key_nothing_happens():
    x = keras.ops.ones((3, 3))
    assert built("a")(x) is x


def test_keys_count_training_calls():
    key = DropoutKey(9)
    key.build()
    drawn = [keras.ops.convert_to_numpy(key.draw()).tolist() for _ in range(3)]
    assert drawn == [[9, 1], [9, 2], [9, 3]]
    assert int(key.count) == 3


def test_a_model_draws_new_noise_each_training_call_and_none_when_used():
    model = GPT(ModelConfig(**SMALL, dropout=RATE), seed=1)
    ids = np.zeros((2, 8), "int32")

    def run(training):
        return keras.ops.convert_to_numpy(model(ids, training=training))

    first, second = run(True), run(True)
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(first[0] - first[1]).max() > 1e-3  # rows of a batch are not dropped alike
    model.dropout_key.count.assign(0)
    np.testing.assert_array_equal(run(True), first)
    np.testing.assert_array_equal(run(False), run(False))
    plain = GPT(ModelConfig(**SMALL), seed=1)
    np.testing.assert_array_equal(run(False), keras.ops.convert_to_numpy(plain(ids)))


def test_the_mean_over_many_masks_is_the_layer_without_dropout():
    layer = built("a")
    mean = np.mean([dropped(layer, 3, count, (20, 50)) for count in range(300)], axis=0)
    assert np.abs(mean - 1).max() < 5 * np.sqrt(RATE / (1 - RATE) / 300)
