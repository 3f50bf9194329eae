"""Whole documents packed into rows: each once an epoch, apart from the others, little padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.packing import PackedDocumentSampler, best_fit_decreasing
from kgpt.data.shards import TokenStream
from kgpt.errors import DataError

SIZES = st.lists(st.integers(0, 90), min_size=1, max_size=60).filter(lambda s: max(s) > 1)
LENGTH = 64


def sampler_of(sizes, batch_size=4, seed=0, loss_mask=None, shards=1):
    """Documents of the given numbers of tokens, which count up, and where they start."""
    offsets = np.cumsum([0, *sizes])[:-1].astype(np.uint64)
    stream = TokenStream(np.array_split(np.arange(sum(sizes), dtype=np.uint32), shards))
    sampler = PackedDocumentSampler(stream, offsets, LENGTH, batch_size, seed, loss_mask)
    return sampler, offsets


def documents_of(batch):
    """The inputs and targets of each segment, row by row."""
    inputs, targets, weights = batch
    for ids, segments, following, row in zip(*inputs.values(), targets, weights, strict=True):
        assert (row == (segments > 0)).all()
        assert not ids[segments == 0].any() and not following[segments == 0].any()
        steps = np.diff(segments[segments > 0], prepend=0)
        assert np.isin(steps, (0, 1)).all()  # 1, 1, 2, 2, 2, 3, ..., and padding at the end
        assert (np.diff(np.flatnonzero(segments > 0), prepend=-1) == 1).all()
        for number in range(1, segments.max() + 1):
            yield ids[segments == number].tolist(), following[segments == number].tolist()


def expected_documents(sizes, offsets):
    for start, size in zip(offsets.astype(int).tolist(), sizes, strict=True):
        tokens = list(range(start, start + min(size, LENGTH + 1)))
        if len(tokens) > 1:
            yield tokens[:-1], tokens[1:]


@given(sizes=SIZES, batch_size=st.integers(1, 7), seed=st.integers(0, 2**31 - 1))
def test_every_document_is_seen_once_an_epoch_from_its_beginning(sizes, batch_size, seed):
    """Whatever the batches, which do not stop at the end of an epoch."""
    sampler, offsets = sampler_of(sizes, batch_size, seed)
    expected = list(expected_documents(sizes, offsets))
    batches = range(2 * sampler.per_epoch)  # as many epochs as twice the rows in a batch
    seen = [document for step in batches for document in documents_of(sampler.batch(step))]
    assert sorted(seen) == sorted(expected * (2 * batch_size))


@given(sizes=SIZES, batch_size=st.integers(1, 7))
def test_evaluation_sees_every_document_once(sizes, batch_size):
    sampler, offsets = sampler_of(sizes, batch_size)
    batches = range(sampler.num_evaluation_batches)
    seen = [item for index in batches for item in documents_of(sampler.evaluation_batch(index))]
    assert sorted(seen) == list(expected_documents(sizes, offsets))


def best_fit_one_by_one(sizes, length):
    """How full each row is."""
    rows = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + size <= length]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += size
        else:
            rows.append(size)
    return sorted(rows)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=200), length=st.integers(30, 64))
def test_packing_by_histogram_is_best_fit_decreasing(sizes, length):
    packed = best_fit_decreasing(np.bincount(sizes), length)
    assert sorted(size for rows in packed for size in rows.sizes * rows.num_rows) == sorted(sizes)
    found = sorted(sum(rows.sizes) for rows in packed for _ in range(rows.num_rows))
    assert found == best_fit_one_by_one(sizes, length)


def test_figures():
    sampler, _ = sampler_of([41, 25, 31, 35, 90, 11, 1])
    assert sampler.num_truncated == 1
    assert sampler.per_epoch == 4  # 64; 40 + 24; 34 + 30; 10
    assert sampler.utilization == (64 + 64 + 64 + 10) / (4 * 64)
    many, _ = sampler_of(np.random.default_rng(0).integers(5, 40, 3000).tolist())
    assert many.utilization > 0.99


def test_any_step_can_be_asked_for_in_any_order():
    sizes = [5, 17, 40, 80, 33, 2, 3] * 9
    there = [list(documents_of(sampler_of(sizes, seed=3)[0].batch(step))) for step in range(50)]
    again, _ = sampler_of(sizes, seed=3, shards=3)
    for step in (49, 3, 20, 3):
        assert list(documents_of(again.batch(step))) == there[step]


def test_which_documents_share_a_row_differs_between_epochs_and_seeds():
    orders = set()
    for seed in (0, 1):
        sampler, _ = sampler_of([20] * 99, seed=seed, batch_size=33)
        assert sampler.per_epoch == 33
        for epoch in (0, 1):
            rows = sampler.batch(epoch)[0]["token_ids"]
            orders.add(frozenset(frozenset(row[row % 20 == 0].tolist()) for row in rows))
    assert len(orders) == 4


def test_only_what_is_to_be_learned_has_weight():
    mask = TokenStream([(np.arange(160) % 3 == 0).astype(np.uint8)])
    sampler, _ = sampler_of([20] * 8, loss_mask=mask)
    inputs, targets, weights = sampler.batch(0)
    learned = (targets % 3 == 0) & (inputs["segment_ids"] > 0)
    assert np.array_equal(weights, learned.astype("float32"))


def test_a_truncated_document_without_a_token_to_learn_is_left_out():
    sizes = [90, 90, 20]
    mask = np.zeros(200, np.uint8)
    mask[[64, 90 + 65, 190]] = 1  # the last target of the first, one too late, within the last
    sampler, _ = sampler_of(sizes, loss_mask=TokenStream([mask]))
    assert (sampler.num_truncated, sampler.per_epoch) == (2, 2)
    inputs, targets, weights = sampler.evaluation_batch(0)
    assert sorted(targets[weights == 1].tolist()) == [64, 190]
    assert not (inputs["token_ids"] == 90).any()
    with pytest.raises(DataError, match="among its first 65; raise train.sequence_length"):
        sampler_of(sizes[:1], loss_mask=TokenStream([np.r_[mask[:64], np.zeros(26, np.uint8)]]))


def test_nothing_to_learn_from_is_said_so():
    with pytest.raises(DataError, match="No document has a token to learn"):
        sampler_of([1, 1, 0])
