"""Log-probabilities of tokens are those of a dense softmax, in value and in gradient."""

import numpy as np
import pytest
from keras import ops

from kgpt import backend
from kgpt.training.log_probs import token_log_probs
from tests.training.gradients import gradients_of
from tests.training.test_losses import B, D, T, V, example

pytestmark = pytest.mark.backend


def dense(hidden, head, targets):
    """Log-probabilities (B, T), and softmax minus one-hot (B, T, V), float64."""
    logits = hidden.astype("float64") @ head.T.astype("float64")
    logits -= logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    taken = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    return taken, np.exp(log_probs) - np.eye(V)[targets]


@pytest.mark.parametrize("chunk", [1, 4, 15, 4096])
@pytest.mark.parametrize("head_trainable", [True, False])
def test_value_and_gradient_of_a_loss_that_is_no_sum_over_tokens(chunk, head_trainable):
    hidden, head, targets, weights = example(1)

    def loss(hidden, head):
        found = token_log_probs(hidden, head, targets, chunk, head_trainable=head_trainable)
        return ops.sum(ops.square(ops.sum(found * ops.array(weights), axis=1)))

    log_probs, slope = dense(hidden, head, targets)
    totals = (log_probs * weights).sum(1)
    upstream = -2 * totals[:, None, None] * weights[..., None] * slope  # (B, T, V)
    for training in (True, False):
        found = token_log_probs(ops.array(hidden), head, targets, chunk, training, head_trainable)
        assert tuple(found.shape) == (B, T)
        np.testing.assert_allclose(backend.to_host(found), log_probs, atol=1e-5)
    if head_trainable:
        dhidden, dhead = gradients_of(loss, hidden, head)
        expected = upstream.reshape(-1, V).T @ hidden.reshape(-1, D)
        np.testing.assert_allclose(dhead, expected, rtol=1e-4, atol=1e-4)
    else:
        (dhidden,) = gradients_of(lambda hidden: loss(hidden, ops.array(head)), hidden)
    np.testing.assert_allclose(dhidden, upstream @ head, rtol=1e-4, atol=1e-4)


def test_a_gradient_of_zero_is_zero():
    hidden, head, targets, _ = example()
    found = gradients_of(lambda *args: 0.0 * ops.sum(token_log_probs(*args, targets)), hidden, head)
    assert not any(np.abs(gradient).max() for gradient in found)


def test_large_weights_of_many_tokens_survive_float16():
    """Each of 4096 tokens has weight 1, where the weights of a mean add up to 1."""
    noise = np.random.default_rng(1)
    hidden = noise.normal(size=(1, 4096, D)).astype("float16")
    head = noise.normal(size=(V, D)).astype("float32")
    targets = noise.integers(0, V, (1, 4096)).astype("int32")
    (found,) = gradients_of(
        lambda head: ops.sum(token_log_probs(ops.array(hidden), head, targets)), head
    )
    expected = -dense(hidden, head, targets)[1][0].T @ hidden[0].astype("float64")
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * np.abs(expected).max())
