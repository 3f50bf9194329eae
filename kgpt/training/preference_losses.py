"""DPO, IPO, ORPO and KTO: losses on preferences.

All are functions of the log-probabilities of completions, which are sums over their tokens, under
the model and, but for ORPO, under its reference. The values are those of `trl`, whose names options
and metrics have.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from kgpt.model.gpt import GPT
from kgpt.training.preference_loss import (
    Batch,
    Metrics,
    PreferenceLoss,
    completion_log_probs,
    mean,
)

Tensor = Any
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")
LOG_PROBS = ("logps/chosen", "logps/rejected")
MAX_LOG_PROB = -1e-6  # the odds of a probability of 1 are infinite


class PairLoss(PreferenceLoss):
    """A loss on pairs: in a batch, the B chosen completions and then the B rejected ones."""

    METRICS: ClassVar[tuple[str, ...]] = (*REWARDS, *LOG_PROBS)

    def losses(
        self, log_probs: Tensor, weights: Tensor, y: Batch
    ) -> tuple[Tensor, Tensor, Metrics]:
        totals = ops.sum(log_probs * weights, axis=1)  # (2B,)
        lengths = ops.maximum(ops.sum(weights, axis=1), 1.0)  # (2B,)
        ratios = totals - y["reference_log_probs"]
        counted = halves(ops.cast(ops.sum(weights, axis=1) > 0, "float32"))[0]
        losses = self.of_ratios(*halves(ratios), *halves(lengths))
        return losses, counted, self.pair_metrics(self.beta * ratios, totals, counted)

    def of_ratios(
        self, chosen: Tensor, rejected: Tensor, chosen_length: Tensor, rejected_length: Tensor
    ) -> Tensor:
        """Losses (B,) from log p / p_reference of the completions and their numbers of tokens."""
        raise NotImplementedError

    def pair_metrics(self, rewards: Tensor, log_probs: Tensor, counted: Tensor) -> Metrics:
        """REWARDS and LOG_PROBS of rewards and log-probabilities (2B,)."""
        chosen, rejected = halves(rewards)
        chosen_log_probs, rejected_log_probs = halves(log_probs)
        values = (
            chosen, rejected, ops.cast(chosen > rejected, "float32"), chosen - rejected,
            chosen_log_probs, rejected_log_probs,
        )  # fmt: skip
        return {name: (x, counted) for name, x in zip((*REWARDS, *LOG_PROBS), values, strict=True)}


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second half of x (2B, ...): of the chosen and of the rejected."""
    rows = ops.shape(x)[0] // 2
    return x[:rows], x[rows:]


@keras.saving.register_keras_serializable("kgpt")
class DPOLoss(PairLoss):
    """Direct preference optimization (Rafailov et al., 2023): -log sigmoid(beta * margin).

    The margin is log p / p_reference of the chosen completion minus that of the rejected one.

    Args:
        beta: see `PreferenceLoss`.
        label_smoothing: the share of pairs that are taken to be the wrong way round (conservative
            DPO, Mitchell, 2023).

    Example:

    >>> loss = DPOLoss(beta=0.1)
    >>> round(float(loss.of_ratios(*keras.ops.array([10.0, 0.0, 5.0, 5.0]))), 4)
    0.3133
    """

    def __init__(
        self, beta: float = 0.1, label_smoothing: float = 0.0, name: str = "dpo_loss", **kwargs: Any
    ):
        super().__init__(beta, name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def of_ratios(
        self, chosen: Tensor, rejected: Tensor, chosen_length: Tensor, rejected_length: Tensor
    ) -> Tensor:
        margin = self.beta * (chosen - rejected)
        right, wrong = ops.log_sigmoid(margin), ops.log_sigmoid(-margin)
        return -(1.0 - self.label_smoothing) * right - self.label_smoothing * wrong

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable("kgpt")
class IPOLoss(PairLoss):
    """Identity preference optimization (Azar et al., 2023): (margin - 1 / (2 beta))^2.

    The margin is between means over the tokens of each completion, so that it does not depend on
    their number, as in `trl`.
    """

    def __init__(self, beta: float = 0.1, name: str = "ipo_loss", **kwargs: Any):
        super().__init__(beta, name=name, **kwargs)

    def of_ratios(
        self, chosen: Tensor, rejected: Tensor, chosen_length: Tensor, rejected_length: Tensor
    ) -> Tensor:
        margin = chosen / chosen_length - rejected / rejected_length
        return ops.square(margin - 1.0 / (2.0 * self.beta))


@keras.saving.register_keras_serializable("kgpt")
class ORPOLoss(PairLoss):
    """Odds ratio preference optimization (Hong et al., 2024), without a reference model.

    The mean cross-entropy of the chosen prompts and completions, plus beta times -log sigmoid of
    the log odds ratio, from means over the tokens of each completion.
    """

    METRICS: ClassVar[tuple[str, ...]] = (
        *PairLoss.METRICS,
        "nll_loss",
        "log_odds_ratio",
        "log_odds_chosen",
    )

    def __init__(self, beta: float = 0.1, name: str = "orpo_loss", **kwargs: Any):
        super().__init__(beta, name=name, **kwargs)

    def with_reference(self, model: GPT, inputs: Tensor, y: Batch, weights: Tensor) -> Batch:
        return y

    def losses(
        self, log_probs: Tensor, weights: Tensor, y: Batch
    ) -> tuple[Tensor, Tensor, Metrics]:
        lengths = ops.sum(weights, axis=1)  # (2B,)
        counted = halves(ops.cast(lengths > 0, "float32"))[0]
        means = ops.sum(log_probs * weights, axis=1) / ops.maximum(lengths, 1.0)
        chosen, rejected = halves(ops.where(lengths > 0, ops.minimum(means, MAX_LOG_PROB), -1.0))
        log_odds = chosen - rejected - (log1mexp(chosen) - log1mexp(rejected))  # (B,)
        ratio = ops.log_sigmoid(log_odds)
        nll = mean(-halves(log_probs)[0], halves(y["token_mask"])[0])
        metrics = self.pair_metrics(self.beta * means, means, counted) | {
            "nll_loss": (nll * counted, counted),
            "log_odds_ratio": (ratio, counted),
            "log_odds_chosen": (log_odds, counted),
        }
        return nll - self.beta * ratio, counted, metrics


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) of x < 0, without cancellation (Mächler, 2012)."""
    return ops.where(x < -0.6931472, ops.log1p(-ops.exp(x)), ops.log(-ops.expm1(x)))


@keras.saving.register_keras_serializable("kgpt")
class KTOLoss(PreferenceLoss):
    """Kahneman-Tversky optimization (Ethayarajh et al., 2024), of completions with one label each.

    1 - sigmoid(beta * (r - KL)) of a desirable completion and 1 - sigmoid(beta * (KL - r)) of
    another, r being log p / p_reference. The KL term is estimated on prompts with the completions
    of other prompts, and is a constant for the gradient.

    Args:
        beta: see `PreferenceLoss`.
        desirable_weight: factor on the losses of desirable completions.
        undesirable_weight: factor on the others.
    """

    METRICS: ClassVar[tuple[str, ...]] = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        *LOG_PROBS,
        "kl",
    )

    def __init__(
        self,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        name: str = "kto_loss",
        **kwargs: Any,
    ):
        super().__init__(beta, name=name, **kwargs)
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight

    def with_reference(self, model: GPT, inputs: Tensor, y: Batch, weights: Tensor) -> Batch:
        """Also "kl_log_probs" and "kl_reference_log_probs" (R,)."""
        y = super().with_reference(model, inputs, y, weights)
        of = (y["kl_inputs"], y["kl_targets"], y["kl_weights"])
        y = y | {"kl_log_probs": completion_log_probs(model, *of, self.chunk)}
        if "kl_reference_log_probs" in y:
            return y
        return y | {"kl_reference_log_probs": self.reference(model, *of)}

    def losses(
        self, log_probs: Tensor, weights: Tensor, y: Batch
    ) -> tuple[Tensor, Tensor, Metrics]:
        totals = ops.sum(log_probs * weights, axis=1)  # (B,)
        ratios = totals - y["reference_log_probs"]
        counted = ops.cast(ops.sum(weights, axis=1) > 0, "float32")
        kl = mean(y["kl_log_probs"] - y["kl_reference_log_probs"], counted)
        kl = ops.maximum(ops.stop_gradient(kl), 0.0)
        losses = self.of_ratios(ratios, y["labels"], kl)
        chosen, rejected = counted * y["labels"], counted * (1.0 - y["labels"])
        rewards = self.beta * ratios
        both = ops.minimum(ops.sum(chosen), ops.sum(rejected))
        margin = mean(rewards, chosen) - mean(rewards, rejected)
        metrics = {
            "rewards/chosen": (rewards, chosen),
            "rewards/rejected": (rewards, rejected),
            "rewards/margins": (margin, ops.cast(both > 0, "float32")),
            "logps/chosen": (totals, chosen),
            "logps/rejected": (totals, rejected),
            "kl": (kl, ops.sum(counted)),
        }
        return losses, counted, metrics

    def of_ratios(self, ratios: Tensor, labels: Tensor, kl: Tensor) -> Tensor:
        """Losses (B,) from log p / p_reference (B,), labels (B,) of 1 and 0, and the KL term."""
        desirable = 1.0 - ops.sigmoid(self.beta * (ratios - kl))
        undesirable = 1.0 - ops.sigmoid(self.beta * (kl - ratios))
        return ops.where(
            labels > 0.5,
            self.desirable_weight * desirable,
            self.undesirable_weight * undesirable,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "desirable_weight": self.desirable_weight,
            "undesirable_weight": self.undesirable_weight,
        }
