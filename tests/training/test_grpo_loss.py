"""GRPO's advantages, weights and loss equal a reference written in NumPy, gradients too."""

import numpy as np
import pytest
from keras import ops

from kgpt import GRPOLoss
from kgpt.training.grpo_loss import group_advantages, token_weights
from tests.training.gradients import gradients_of

pytestmark = pytest.mark.backend

G, B, T, D, V, MAX_COMPLETION = 2, 4, 6, 8, 11, 5


def example(seed=0):
    noise = np.random.default_rng(seed)
    hidden = noise.normal(size=(B, T, D))
    head = noise.normal(size=(V, D))
    token_ids = noise.integers(0, V, (B, T)).astype("int32")
    mask = np.zeros((B, T))
    for row, (start, end) in enumerate([(2, 6), (1, 4), (0, 5), (3, 4)]):
        mask[row, start:end] = 1
    rewards = noise.normal(size=B)
    return hidden, head, token_ids, mask, rewards


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def reference_advantages(rewards, scale):
    """One group at a time, with explicit sums."""
    out = []
    groups = [rewards[i : i + G] for i in range(0, len(rewards), G)]
    for group in groups:
        spread = {
            "group": np.sqrt(((group - group.mean()) ** 2).sum() / (G - 1)),
            "batch": np.sqrt(((rewards - rewards.mean()) ** 2).sum() / (len(rewards) - 1)),
        }
        for reward in group:
            advantage = reward - group.mean()
            out.append(advantage if scale == "none" else advantage / (spread[scale] + 1e-4))
    return np.array(out)


def reference_loss(hidden, head, token_ids, mask, advantages, old, ref, options, loss_type):
    """The loss of the paper, token by token, in float64."""
    logits = hidden @ head.T / options["temperature"]
    total, tokens, rows = 0.0, mask.sum(), []
    low, high = options["epsilon"], options["epsilon_high"] or options["epsilon"]
    for b in range(len(hidden)):
        of_row = 0.0
        for t in np.flatnonzero(mask[b]):
            logp = log_softmax(logits[b, t])[token_ids[b, t]]
            ratio = np.exp(logp - (logp if old is None else old[b, t]))
            clipped = min(max(ratio, 1 - low), 1 + high)
            loss = -min(ratio * advantages[b], clipped * advantages[b])
            if options["beta"]:
                gap = ref[b, t] - logp
                loss += options["beta"] * (np.exp(gap) - gap - 1)
            of_row += loss
        rows.append(of_row / mask[b].sum())
        total += of_row
    return {
        "grpo": np.mean(rows), "bnpo": total / tokens, "dapo": total / tokens,
        "dr_grpo": total / (len(hidden) * MAX_COMPLETION),
    }[loss_type]  # fmt: skip


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_advantages(scale):
    rewards = example()[-1]
    ours = group_advantages(rewards, G, scale)
    np.testing.assert_allclose(ours, reference_advantages(rewards, scale), rtol=1e-6)
    np.testing.assert_allclose(ours.reshape(-1, G).sum(1), 0, atol=1e-5)


def test_equal_rewards_are_no_advantage():
    assert not group_advantages(np.full(4, 3.0), 2).any()


CASES = [
    ("grpo", {}, False),
    ("bnpo", {"epsilon_high": 0.4}, True),
    ("dr_grpo", {"temperature": 0.7}, True),
    ("dapo", {"beta": 0.3, "temperature": 1.5, "epsilon_high": 0.1}, True),
    ("grpo", {"beta": 0.1}, False),
]


def case(loss_type, changes, has_old, seed=0):
    """The loss, as a function of hidden states and head, and all that the reference needs."""
    options = {"temperature": 1.0, "beta": 0.0, "epsilon": 0.2, "epsilon_high": None, **changes}
    hidden, head, token_ids, mask, rewards = example(seed)
    noise = np.random.default_rng(seed + 1)
    logp = np.take_along_axis(
        log_softmax(hidden @ head.T / options["temperature"]), token_ids[..., None], -1
    )[..., 0]
    old = logp + noise.normal(0, 0.4, logp.shape) if has_old else None
    ref = logp + noise.normal(0, 0.5, logp.shape)
    advantages = group_advantages(rewards, G)
    loss = GRPOLoss(**options, chunk=7, one_update=not has_old)
    y = {"token_ids": token_ids, "advantages": advantages[:, None]}
    y |= {"old_log_probs": old.astype("float32")} if has_old else {}
    y |= {"ref_log_probs": ref.astype("float32")} if options["beta"] else {}
    weights = token_weights(mask, loss_type, MAX_COMPLETION, B)

    def function(hidden, head):
        return loss.from_hidden_states(hidden, head, y, weights)

    def reference(hidden, head, at=old):
        return reference_loss(
            hidden, head, token_ids, mask, advantages, at, ref, options, loss_type
        )

    return loss, function, reference, (hidden, head), logp


@pytest.mark.parametrize(("loss_type", "changes", "has_old"), CASES)
def test_value_and_gradients(loss_type, changes, has_old):
    _, function, reference, arrays, logp = case(loss_type, changes, has_old)
    hidden, head = (array.astype("float32") for array in arrays)
    assert float(function(ops.array(hidden), ops.array(head))) == pytest.approx(
        reference(*arrays), rel=1e-4, abs=1e-6
    )
    at = logp if not has_old else None  # without old values the ratio is 1, but has a slope
    given = {} if at is None else {"at": at}
    for number, ours in enumerate(gradients_of(function, hidden, head)):
        noise = np.random.default_rng(3).normal(size=ours.shape)
        for direction in (noise, noise[::-1].copy()):
            step = 1e-5 * direction
            moved = [
                [array + sign * step if i == number else array for i, array in enumerate(arrays)]
                for sign in (1, -1)
            ]
            slope = (reference(*moved[0], **given) - reference(*moved[1], **given)) / 2e-5
            assert (ours * direction).sum() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_nothing_outside_of_completions_counts():
    """Neither infinite log-probabilities there, nor states: the gradient is exactly 0."""
    mask = example()[3]
    _, function, _, arrays, _ = case("dapo", {"beta": 0.3}, True)
    hidden, head = (array.astype("float32") for array in arrays)
    far = np.where(mask[..., None] > 0, hidden, 1e4 * hidden).astype("float32")
    (slope,) = gradients_of(lambda x: function(x, ops.array(head)), far)
    assert np.isfinite(slope).all() and not slope[mask == 0].any()
    assert float(function(ops.array(far), ops.array(head))) == pytest.approx(
        float(function(ops.array(hidden), ops.array(head)))
    )


def test_metrics_are_means_over_completions():
    loss, function, _, arrays, logp = case("dapo", {"beta": 0.3}, True)
    function(*(ops.array(array.astype("float32")) for array in arrays))
    found = {metric.name: float(metric.result()) for metric in loss.metrics}
    assert found.keys() == {"entropy", "clip_ratio", "kl"}
    mask = example()[3]
    assert found["entropy"] == pytest.approx(-(logp * mask).sum() / mask.sum(), rel=1e-5)
    assert 0 < found["clip_ratio"] < 1 and found["kl"] > 0


def test_dapo_weighs_tokens_of_an_update_alike():
    """The mean over the batches of an update is the mean over its tokens; in "grpo" over rows."""
    mask = example()[3]
    for batch_size in (1, 2, 4):
        dapo = token_weights(mask, "dapo", MAX_COMPLETION, batch_size)
        assert np.unique(dapo[mask > 0]).size == 1
        assert dapo.sum() == pytest.approx(B / batch_size)
        rows = token_weights(mask, "grpo", MAX_COMPLETION, batch_size).sum(1)
        np.testing.assert_allclose(rows, 1 / batch_size, rtol=1e-6)
