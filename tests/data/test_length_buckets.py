"""Whole documents in batches: each once an epoch, little padding, none of it learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.sampler import LengthBucketSampler
from kgpt.data.shards import TokenStream
from kgpt.errors import DataError

SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=60).filter(lambda s: max(s) > 1)


def buckets_of(sizes, length=64, batch_size=4, seed=0, loss_mask=None):
    """Documents of the given sizes over tokens that count up."""
    starts = np.cumsum([0, *sizes])[:-1].astype(np.uint64)
    stream = TokenStream([np.arange(sum(sizes), dtype=np.uint32)])
    return LengthBucketSampler(stream, starts, length, batch_size, seed, loss_mask), starts


@given(sizes=SIZES, batch_size=st.integers(1, 7), seed=st.integers(0, 2**31 - 1))
def test_every_document_is_seen_once_an_epoch_from_its_beginning(sizes, batch_size, seed):
    buckets, starts = buckets_of(sizes, batch_size=batch_size, seed=seed)
    for epoch in range(2):
        seen = []
        for step in range(buckets.per_epoch):
            inputs, targets, weights = buckets.batch(epoch * buckets.per_epoch + step)
            for row in range(batch_size):
                real = weights[row] == 1
                if real.any():
                    seen.append((inputs[row][real].tolist(), targets[row][real].tolist()))
        expected = []
        for start, size in zip(starts.astype(int).tolist(), sizes, strict=True):
            cut = min(size, 65)
            if cut > 1:
                tokens = list(range(start, start + cut))
                expected.append((tokens[:-1], tokens[1:]))
        assert sorted(seen) == expected


@given(sizes=SIZES)
def test_a_row_is_at_most_half_padding(sizes):
    buckets, _ = buckets_of(sizes)
    for step in range(buckets.per_epoch):
        inputs, targets, weights = buckets.batch(step)
        width = inputs.shape[1]
        assert width in (16, 32, 64)
        filled = weights.sum(axis=1)
        assert ((filled == 0) | (filled > width / 2) | (width == 16)).all()
        assert not inputs[weights == 0].any() and not targets[weights == 0].any()


def test_any_step_can_be_asked_for_in_any_order():
    sizes = [5, 17, 40, 80, 33, 2, 3] * 9
    there = [buckets_of(sizes, seed=3)[0].batch(step) for step in range(50)]
    again, _ = buckets_of(sizes, seed=3)
    for step in (49, 3, 20, 3):
        for ours, theirs in zip(again.batch(step), there[step], strict=True):
            assert np.array_equal(ours, theirs)


def test_the_order_differs_between_epochs_and_seeds():
    orders = set()
    for seed in (0, 1):
        buckets, _ = buckets_of([20] * 99, seed=seed)
        for epoch in (0, 1):
            steps = range(epoch * buckets.per_epoch, (epoch + 1) * buckets.per_epoch)
            orders.add(tuple(int(buckets.batch(step)[0][0, 0]) for step in steps))
    assert len(orders) == 4


def test_only_what_is_to_be_learned_has_weight():
    sizes = [20] * 8
    learn = TokenStream([(np.arange(160) % 3 == 0).astype(np.uint8)])
    buckets, _ = buckets_of(sizes, loss_mask=learn)
    _, targets, weights = buckets.batch(0)
    assert np.array_equal(weights[:, :19], (targets[:, :19] % 3 == 0).astype(np.float32))


def test_nothing_to_learn_from_is_said_so():
    with pytest.raises(DataError, match="No document has a token to learn"):
        buckets_of([1, 1, 0])
