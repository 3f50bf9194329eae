"""The loss of distillation is its formula, in value and in gradient, whatever the chunk."""

import numpy as np
import pytest
from keras import ops

from kgpt.training.distillation_loss import DistillationOptions, SoftTargets, distillation_loss
from tests.training.gradients import gradients_of
from tests.training.test_losses import example

pytestmark = pytest.mark.backend
D_TEACHER, V = 6, 11


def softmax(x):
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def plain(logits, teacher, targets, options):
    """Loss and gradient (M, V) of each row, in float64."""
    t, a = options.temperature, options.alpha
    onehot = np.eye(V)[targets]
    if options.top_k:
        kept = np.argsort(teacher, -1)[:, -options.top_k :]
        mask = np.full_like(teacher, -np.inf)
        np.put_along_axis(mask, kept, 0.0, -1)
        teacher = teacher + mask
    p, q, hard = softmax(teacher / t), softmax(logits / t), softmax(logits)
    divergence = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0).sum(-1)
    loss = -(1 - a) * np.log((hard * onehot).sum(-1)) + a * t**2 * divergence
    return loss, (1 - a) * (hard - onehot) + a * t * (q - p)


@pytest.mark.parametrize("chunk", [4, 4096])
@pytest.mark.parametrize(
    "options",
    [
        DistillationOptions(2.0, 0.5),
        DistillationOptions(3.0, 1.0, top_k=4),
        DistillationOptions(1.0, 0.0),
    ],
)
def test_value_and_gradients_equal_the_formula(options, chunk):
    hidden, head, targets, weights = example()
    noise = np.random.default_rng(2)
    states = noise.normal(size=(targets.size, D_TEACHER)).astype("float32")
    table = 2 * noise.normal(size=(V, D_TEACHER)).astype("float32")
    rows, ids = hidden.reshape(targets.size, -1).astype("float64"), targets.reshape(-1)
    losses, dlogits = plain(rows @ head.T, states.astype("float64") @ table.T, ids, options)
    w = weights.reshape(-1) / weights.sum()

    def function(hidden, head):
        soft = SoftTargets(ops.array(ids), ops.array(states), ops.array(table))
        return distillation_loss(hidden, head, soft, weights, options, chunk=chunk)

    found = float(function(ops.array(hidden), ops.array(head)))
    assert found == pytest.approx(losses @ w, rel=1e-5)
    dlogits *= w[:, None]
    dhidden, dhead = gradients_of(function, hidden, head)
    np.testing.assert_allclose(dhidden, (dlogits @ head).reshape(hidden.shape), atol=1e-5)
    np.testing.assert_allclose(dhead, dlogits.T @ rows, atol=1e-5)


def test_a_student_like_its_teacher_has_no_soft_loss():
    hidden, head, targets, _ = example()
    rows = ops.array(hidden.reshape(targets.size, -1))

    def function(hidden):
        soft = SoftTargets(ops.array(targets.reshape(-1)), rows, ops.array(head))
        return distillation_loss(hidden, ops.array(head), soft, None, DistillationOptions(3.0, 1.0))

    assert abs(float(function(ops.array(hidden)))) < 1e-6
    (gradient,) = gradients_of(function, hidden)
    assert np.abs(gradient).max() < 1e-6
