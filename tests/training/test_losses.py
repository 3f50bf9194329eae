"""NextTokenLoss is plain cross-entropy, in value and in gradient."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kgpt import NextTokenLoss, backend
from tests.training.gradients import gradients_of

pytestmark = pytest.mark.backend

B, T, D, V = 3, 5, 8, 11


def example(seed=0):
    noise = np.random.default_rng(seed)
    hidden = noise.normal(size=(B, T, D)).astype("float32")
    head = noise.normal(size=(V, D)).astype("float32")
    targets = noise.integers(0, V, (B, T)).astype("int32")
    weights = noise.choice([0.0, 0.5, 1.0], (B, T)).astype("float32")
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights, smoothing):
    """Loss and its gradients: cross-entropy with a dense target distribution, float64."""
    h, w = hidden.reshape(-1, D).astype("float64"), weights.reshape(-1).astype("float64")
    w = w / w.sum()
    logits = h @ head.astype("float64").T
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    wanted = np.full_like(p, smoothing / V)
    wanted[np.arange(len(h)), targets.reshape(-1)] += 1 - smoothing
    loss = -(wanted * np.log(p)).sum(-1) @ w
    slope = (p - wanted) * w[:, None]
    return loss, (slope @ head).reshape(hidden.shape), slope.T @ h


@given(
    chunk=st.sampled_from([1, 4, 15, 16, 4096]),
    smoothing=st.sampled_from([0.0, 0.2]),
    weighted=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=16)
def test_value_and_gradients_equal_plain_cross_entropy(chunk, smoothing, weighted, seed):
    hidden, head, targets, weights = example(seed)
    if not weighted:
        weights = np.ones_like(weights)
    loss = NextTokenLoss(smoothing, chunk)
    given_weights = weights if weighted else None

    def function(hidden, head):
        return loss.from_hidden_states(hidden, head, targets, given_weights)

    value, dhidden, dhead = plain(hidden, head, targets, weights, smoothing)
    unused = loss.from_hidden_states(
        ops.array(hidden), ops.array(head), targets, given_weights, training=False
    )
    assert float(unused) == pytest.approx(value, rel=1e-5)
    ours = gradients_of(function, hidden, head)
    np.testing.assert_allclose(ours[0], dhidden, atol=1e-6)
    np.testing.assert_allclose(ours[1], dhead, atol=1e-6)


def test_rows_divided_among_devices_are_cut_on_each(monkeypatch):
    hidden, head, targets, weights = example()
    monkeypatch.setattr(backend.distribution, "batch_shards", lambda: B)
    loss = NextTokenLoss(chunk=2)  # of the 5 rows of each device

    def function(hidden, head):
        return loss.from_hidden_states(hidden, head, targets, weights)

    value, *slopes = plain(hidden, head, targets, weights, 0.0)
    assert float(function(ops.array(hidden), ops.array(head))) == pytest.approx(value, rel=1e-5)
    for ours, wanted in zip(gradients_of(function, hidden, head), slopes, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_on_logits_it_is_the_stock_loss(smoothing):
    hidden, head, targets, weights = example()
    logits = ops.array(hidden @ head.T)
    onehot = keras.utils.to_categorical(targets, V)
    stock = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    for w in (None, weights):
        ours = float(NextTokenLoss(smoothing)(targets, logits, sample_weight=w))
        assert ours == pytest.approx(float(stock(onehot, logits, sample_weight=w)), rel=1e-5)


def test_padding_has_no_influence():
    hidden, head, targets, weights = example()
    loss = NextTokenLoss(chunk=4)

    def function(hidden):
        return loss.from_hidden_states(hidden, ops.array(head), targets, weights)

    (slope,) = gradients_of(function, hidden)
    assert (slope[weights == 0] == 0).all()
    assert (np.abs(slope[weights > 0]).max(-1) > 0).all()
    changed = targets.copy()
    changed[weights == 0] = 0
    values = [
        float(loss.from_hidden_states(ops.array(hidden), ops.array(head), y, weights))
        for y in (targets, changed)
    ]
    assert values[0] == values[1]


def test_all_padding_is_no_loss_and_no_nan():
    hidden, head, targets, _ = example()
    nothing = np.zeros((B, T), "float32")

    def function(hidden, head):
        return NextTokenLoss().from_hidden_states(hidden, head, targets, nothing)

    assert float(function(ops.array(hidden), ops.array(head))) == 0
    assert not any(np.abs(slope).max() for slope in gradients_of(function, hidden, head))


def test_small_weights_survive_float16():
    """Of a batch of thousands of tokens each counts little; float16 must not round that to 0."""
    noise = np.random.default_rng(1)
    hidden = noise.normal(size=(1, 8192, D)).astype("float16")
    head = noise.normal(size=(V, D)).astype("float32")
    targets = noise.integers(0, V, (1, 8192)).astype("int32")

    def function(head):
        return NextTokenLoss().from_hidden_states(ops.array(hidden), head, targets)

    (slope,) = gradients_of(function, head)
    expected = plain(hidden, head, targets, np.ones((1, 8192)), 0.0)[2]
    np.testing.assert_allclose(slope, expected, atol=2e-3 * np.abs(expected).max())
