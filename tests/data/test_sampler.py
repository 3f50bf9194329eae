"""Batches are a pure function of (seed, step), and an epoch shows every window once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.sampler import (
    PackedSampler,
    evaluation_batch,
    feistel_permutation,
    num_evaluation_batches,
)
from kgpt.data.shards import TokenStream
from kgpt.errors import DataError


def stream_of(tokens, shards=1):
    """Tokens 0, 1, 2, ...: each tells its own place."""
    return TokenStream(np.array_split(np.arange(tokens, dtype=np.uint32), shards))


@given(st.integers(1, 3000), st.integers(0, 2**31), st.integers(0, 9))
def test_the_order_of_an_epoch_is_a_permutation(size, seed, epoch):
    order = feistel_permutation(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(size))


def test_the_order_depends_on_seed_and_epoch():
    orders = {
        tuple(feistel_permutation(np.arange(100), 100, seed, epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert tuple(range(100)) not in orders


@given(
    tokens=st.integers(20, 400),
    length=st.integers(1, 9),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 2**31 - 1),
)
def test_an_epoch_shows_every_window_once(tokens, length, batch_size, seed):
    windows = PackedSampler(stream_of(tokens), length, batch_size, seed)
    epochs = 3
    rows = [
        row
        for step in range(-(-epochs * windows.per_epoch // batch_size))
        for row in windows.batch(step)[0]
    ]
    for epoch in range(epochs):
        shown = np.concatenate(rows[epoch * windows.per_epoch : (epoch + 1) * windows.per_epoch])
        assert len(set(shown)) == windows.per_epoch * length  # side by side, none twice
        assert np.array_equal(np.sort(shown), np.arange(shown.min(), shown.max() + 1))


@given(st.integers(0, 10**6), st.integers(0, 2**31 - 1))
def test_targets_are_the_inputs_one_further(step, seed):
    inputs, targets = PackedSampler(stream_of(500), 8, 4, seed).batch(step)
    assert inputs.shape == targets.shape == (4, 8)
    assert inputs.dtype == targets.dtype == np.int32
    assert np.array_equal(targets, inputs + 1)  # as the tokens count up


def test_any_step_can_be_asked_for_in_any_order():
    there = [PackedSampler(stream_of(300), 8, 4, 7).batch(step)[0] for step in range(40)]
    windows = PackedSampler(stream_of(300), 8, 4, 7)
    for step in (39, 3, 17, 3):
        assert np.array_equal(windows.batch(step)[0], there[step])


def test_windows_begin_elsewhere_in_each_epoch():
    windows = PackedSampler(stream_of(1000), 50, 18, 3)
    assert windows.per_epoch == 18  # a batch is an epoch
    assert len({int(windows.batch(epoch)[0].min()) for epoch in range(40)}) > 10


def test_how_the_tokens_are_sharded_does_not_show():
    for step in range(9):
        whole = PackedSampler(stream_of(300), 8, 4, 1).batch(step)
        parts = PackedSampler(stream_of(300, shards=11), 8, 4, 1).batch(step)
        assert np.array_equal(whole, parts)


def test_weights_are_the_mask_of_the_targets():
    learn = TokenStream([(np.arange(300) % 3 == 0).astype(np.uint8)])
    _, targets, weights = PackedSampler(stream_of(300), 8, 4, 1, loss_mask=learn).batch(5)
    assert np.array_equal(weights, (targets % 3 == 0).astype(np.float32))


@given(tokens=st.integers(2, 200), length=st.integers(1, 9), batch_size=st.integers(1, 5))
def test_validation_covers_every_token_but_the_first_once(tokens, length, batch_size):
    stream = stream_of(tokens)
    seen = []
    for index in range(num_evaluation_batches(stream, length, batch_size)):
        inputs, targets, weights = evaluation_batch(stream, length, batch_size, index)
        assert targets.shape == weights.shape == (batch_size, length)
        real = weights == 1
        assert np.array_equal(targets[real], inputs[real] + 1)
        assert not weights[~real].any() and not targets[~real].any()
        seen += targets[real].tolist()
    assert seen == list(range(1, tokens))


def test_validation_counts_only_what_is_learned():
    stream = stream_of(100)
    learn = TokenStream([(np.arange(100) % 4 == 0).astype(np.uint8)])
    _, targets, weights = evaluation_batch(stream, 10, 3, 0, learn)
    assert np.array_equal(weights, (targets % 4 == 0).astype(np.float32))


def test_a_text_shorter_than_a_sequence_is_refused():
    with pytest.raises(DataError, match="has 8 tokens, too few for one sequence of 8"):
        PackedSampler(stream_of(8), 8, 1, 0)
    inputs, _ = PackedSampler(stream_of(9), 8, 2, 0).batch(3)
    assert np.array_equal(inputs, [range(8)] * 2)
