"""Losses on preferences are those of `trl`: values, gradients and metrics, on fixed log-probs."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
from keras import ops

torch = pytest.importorskip("torch")
dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
kto_trainer = pytest.importorskip("trl.trainer.kto_trainer")
orpo_trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer")

import kgpt  # noqa: E402
from kgpt import backend  # noqa: E402
from tests.training.gradients import gradients_of  # noqa: E402

pytestmark = pytest.mark.backend

B, T = 4, 7
ACCELERATOR = SimpleNamespace(
    device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x, num_processes=1
)


def example(seed=0):
    """Log-probabilities and completion masks (2B, T), of the reference (2B,)."""
    noise = np.random.default_rng(seed)
    starts, ends = noise.integers(0, 3, (2 * B, 1)), noise.integers(4, T + 1, (2 * B, 1))
    positions = np.arange(T)
    mask = ((positions >= starts) & (positions < ends)).astype("float32")
    log_probs = -noise.exponential(1.5, (2 * B, T)).astype("float32")
    reference = (log_probs * mask).sum(1) + noise.normal(0, 2, 2 * B)
    return log_probs, mask, reference.astype("float32")


def trainer(**options):
    """What a method of a trainer of `trl` reads of `self`."""
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False,
        precompute_ref_logps=True, _metrics={"train": defaultdict(list)}, _total_train_tokens=0,
        _tp_size=1, **options,
    )  # fmt: skip


def outputs_of(log_probs):
    """A model whose tokens have these log-probabilities; nothing else of it matters."""
    zeros = torch.zeros_like(log_probs)
    outputs = SimpleNamespace(
        log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    return lambda **inputs: outputs


def inputs_of(mask, **others):
    """A batch of `trl`: each sequence has one token more than it has targets."""
    shifted = torch.tensor(np.pad(mask, ((0, 0), (1, 0))))
    ids = torch.zeros(shifted.shape, dtype=torch.int64)
    return {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "completion_mask": shifted.long()
    } | {name: torch.tensor(value) for name, value in others.items()}  # fmt: skip


def of_dpo_trainer(loss_type, beta, log_probs, mask, reference):
    """Loss, gradient and metrics of `trl`."""
    self = trainer(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[loss_type], loss_weights=[1.0],
        beta=beta, label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    x = torch.tensor(log_probs, requires_grad=True)
    inputs = inputs_of(mask, ref_chosen_logps=reference[:B], ref_rejected_logps=reference[B:])
    model = outputs_of(x * torch.tensor(mask))
    loss = dpo_trainer.DPOTrainer._compute_loss(self, model, inputs, False)
    (gradient,) = torch.autograd.grad(loss, x)
    metrics = {name: np.mean(values) for name, values in self._metrics["train"].items()}
    return loss.item(), gradient.tolist(), metrics


def ours(loss, log_probs, mask, **y):
    """Loss, gradient and metrics of a `kgpt` loss."""
    from kgpt.training.preference_loss import mean

    y = {name: ops.array(value) for name, value in y.items()}

    def value(log_probs):
        losses, weights, _ = loss.losses(log_probs, ops.array(mask), y)
        return mean(losses, weights)

    metrics = loss.losses(ops.array(log_probs), ops.array(mask), y)[2]
    found = {name: float(backend.to_host(mean(*pair))) for name, pair in metrics.items()}
    (gradient,) = gradients_of(value, log_probs)
    return float(backend.to_host(value(ops.array(log_probs)))), gradient, found


def check(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)
    shared = set(found[2]) & set(expected[2])
    assert len(shared) >= 5
    for name in shared:
        assert found[2][name] == pytest.approx(expected[2][name], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize(("kind", "loss_type"), [("DPOLoss", "sigmoid"), ("IPOLoss", "ipo")])
def test_pairs(kind, loss_type, beta):
    log_probs, mask, reference = example()
    loss = getattr(kgpt, kind)(beta)
    found = ours(loss, log_probs, mask, reference_log_probs=reference)
    check(found, of_dpo_trainer(loss_type, beta, log_probs, mask, reference))


@pytest.mark.parametrize("scale", [1.0, 0.02, 30.0])
def test_orpo(scale):
    """Also with probabilities near 1 and near 0."""
    log_probs, mask, _ = example(1)
    log_probs *= scale
    whole = (np.cumsum(mask[:, ::-1], 1)[:, ::-1] > 0).astype("float32")  # the prompt, too
    x = torch.tensor(log_probs, requires_grad=True)
    means = (x * torch.tensor(mask)).sum(1) / torch.tensor(mask).sum(1)
    self = SimpleNamespace(beta=0.3, accelerator=ACCELERATOR)
    losses, chosen, rejected, ratio, odds = orpo_trainer.ORPOTrainer.odds_ratio_loss(
        self, means[:B], means[B:]
    )
    nll = -x[:B][torch.tensor(whole[:B]) > 0].mean()
    loss = nll - losses.mean()  # as in ORPOTrainer.get_batch_loss_metrics
    (gradient,) = torch.autograd.grad(loss, x)
    metrics = {
        "rewards/chosen": chosen.mean(), "rewards/rejected": rejected.mean(), "nll_loss": nll,
        "log_odds_ratio": ratio, "log_odds_chosen": odds,
    }  # fmt: skip
    found = ours(kgpt.ORPOLoss(0.3), log_probs, mask, token_mask=whole)
    check(found, (loss.item(), gradient.tolist(), {k: v.item() for k, v in metrics.items()}))


@pytest.mark.parametrize("shift", [3.0, -3.0])
def test_kto(shift):
    """Also where the estimate of the KL term is below 0."""
    log_probs, mask, reference = example(2)
    labels = np.array([1, 0, 0, 1, 1, 0, 1, 1], "float32")
    noise = np.random.default_rng(3)
    kl_log_probs = noise.normal(-9, 1, (2, 2 * B))
    kl_log_probs = (kl_log_probs + np.array([[shift], [0.0]])).astype("float32")
    self = trainer(
        calculate_KL=True, loss_type="kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.5,
        _compute_kl_logps=lambda *_: torch.tensor(kl_log_probs[0]),
    )  # fmt: skip
    x = torch.tensor(log_probs, requires_grad=True)
    inputs = inputs_of(
        mask, ref_logps=reference, ref_KL_logps=kl_log_probs[1],
        label=labels.astype(bool),
    )  # fmt: skip
    model = outputs_of(x * torch.tensor(mask))
    expected = kto_trainer.KTOTrainer._compute_loss(self, model, inputs, False)
    (gradient,) = torch.autograd.grad(expected, x)
    metrics = {name: np.mean(values) for name, values in self._metrics["train"].items()}
    found = ours(
        kgpt.KTOLoss(0.2, 1.5, 0.5), log_probs, mask, reference_log_probs=reference, labels=labels,
        kl_log_probs=kl_log_probs[0],
        kl_reference_log_probs=kl_log_probs[1],
    )  # fmt: skip
    assert (metrics["kl"] > 0) == (shift > 0)
    check(found, (expected.item(), gradient.tolist(), metrics))
