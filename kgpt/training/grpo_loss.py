"""The advantages and the loss of GRPO, in the forms that trl's `GRPOTrainer` has.

- GRPO: Shao et al., 2024, "DeepSeekMath", equations 3 and 4.
- Dr. GRPO (`scale_rewards="none"`, `loss_type="dr_grpo"`): Liu et al., 2025.
- DAPO (`epsilon_high`, `loss_type="dapo"`): Yu et al., 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from kgpt import backend
from kgpt.training.log_probs import token_log_probs
from kgpt.training.losses import chunk_gradient

Tensor = Any
ScaleRewards = Literal["group", "batch", "none"]
LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
STD_EPSILON = 1e-4  # trl's


def group_advantages(
    rewards: np.ndarray, num_generations: int, scale_rewards: ScaleRewards = "group"
) -> np.ndarray:
    """How much better than its group each completion is.

    Args:
        rewards: (N,), those of the completions of one prompt after one another.
        num_generations: G completions of each prompt; N is a multiple of it.
        scale_rewards: divide by the standard deviation of the "group" or of the "batch".

    Returns:
        (N,) float32: reward minus the group's mean, over the standard deviation (of a sample, with
        N - 1) plus 1e-4.

    Example:

    >>> group_advantages(np.array([1.0, 0.0, 3.0, 3.0]), 2, "none").tolist()
    [0.5, -0.5, 0.0, 0.0]
    """
    groups = np.asarray(rewards, "float64").reshape(-1, num_generations)
    centred = groups - groups.mean(axis=1, keepdims=True)
    if scale_rewards == "group":
        centred = centred / (groups.std(axis=1, ddof=1, keepdims=True) + STD_EPSILON)
    elif scale_rewards == "batch":
        centred = centred / (groups.std(ddof=1) + STD_EPSILON)
    return centred.reshape(-1).astype("float32")


def token_weights(
    mask: np.ndarray, loss_type: LossType, max_completion_length: int, batch_size: int
) -> np.ndarray:
    """What each token counts in the loss of its batch.

    Args:
        mask: (N, T), 1 at the tokens of completions; all the completions of an update.
        max_completion_length: of "dr_grpo", a constant in place of the number of tokens.
        batch_size: B completions of a batch; the update averages N / B of them.

    Returns:
        (N, T) float32. The loss of a batch is the sum over its tokens, and that of the update the
        mean over its batches.
    """
    mask = np.asarray(mask, "float32")
    batches = mask.reshape(-1, batch_size * mask.shape[1])
    if loss_type == "grpo":
        tokens = batch_size * np.maximum(mask.sum(axis=1, keepdims=True), 1)  # (N, 1)
    elif loss_type == "bnpo":
        tokens = np.repeat(np.maximum(batches.sum(axis=1), 1), batch_size)[:, None]
    elif loss_type == "dapo":
        tokens = np.maximum(mask.sum(), 1) / len(batches)
    else:
        tokens = np.float32(batch_size * max_completion_length)
    return mask / tokens


def clipped_objective(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
) -> tuple[Tensor, Tensor]:
    """min(r A, clip(r) A) of each token, and 1.0 where the clipped ratio is the smaller.

    Args:
        log_probs: (B, T) under the model that is trained; r = exp(log_probs - old_log_probs).
        old_log_probs: (B, T) under the model that generated the tokens.
        advantages: (B, 1), A.
        epsilon, epsilon_high: r is clipped to [1 - epsilon, 1 + epsilon_high]; None is `epsilon`.
    """
    high = epsilon if epsilon_high is None else epsilon_high
    ratio = ops.exp(log_probs - old_log_probs)
    low_clip = ops.logical_and(ratio < 1 - epsilon, advantages < 0)
    high_clip = ops.logical_and(ratio > 1 + high, advantages > 0)
    clipped = ops.clip(ratio, 1 - epsilon, 1 + high)
    objective = ops.minimum(ratio * advantages, clipped * advantages)
    return objective, ops.cast(ops.logical_or(low_clip, high_clip), "float32")


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """q / p - log(q / p) - 1 >= 0 of each token, whose mean is KL(p, q) (Schulman, 2020: k3).

    Args:
        log_probs: (B, T) under the model, p.
        ref_log_probs: (B, T) under the reference, q.
    """
    log_ratio = ref_log_probs - log_probs
    return ops.exp(log_ratio) - log_ratio - 1


def tempered(hidden: Tensor, temperature: float) -> Tensor:
    """Hidden states whose logits are those of `hidden` divided by the temperature."""
    return hidden if temperature == 1 else hidden / temperature


@keras.saving.register_keras_serializable("kgpt")
class GRPOLoss(keras.losses.Loss):
    """The loss of GRPO, for a `kgpt.GPT`, which gives it hidden states.

    The targets are a dictionary of `token_ids` (B, T); `advantages` (B, 1); `old_log_probs` (B, T),
    or none where the completions are of the model itself and the ratio is 1; `ref_log_probs`
    (B, T) if `beta` is not 0. The sample weights (B, T) are those of `token_weights`. The loss is
    their sum over -objective + beta * KL.

    Args:
        temperature: of the completions; the log-probabilities are those of logits / temperature.
        beta: weight of the KL divergence from the reference.
        epsilon, epsilon_high: see `clipped_objective`.
        chunk: tokens whose logits are in memory at a time.
        one_update: the completions are those of the model itself: `old_log_probs` is not given.

    Attributes:
        metrics: `entropy`, estimated by the tokens generated; `clip_ratio` if not `one_update`;
            and `kl` if `beta` is not 0: means over tokens of a batch.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        beta: float = 0.0,
        epsilon: float = 0.2,
        epsilon_high: float | None = None,
        chunk: int = 4096,
        one_update: bool = True,
        name: str = "grpo_loss",
        **kwargs: Any,
    ):
        kwargs.setdefault("reduction", "sum")
        super().__init__(name=name, **kwargs)
        self.temperature, self.beta, self.chunk = temperature, beta, chunk
        self.epsilon, self.epsilon_high = epsilon, epsilon_high
        self.one_update = one_update
        names = ["entropy", *["clip_ratio"] * (not one_update), *["kl"] * bool(beta)]
        self.metrics = [LastMean(name=name) for name in names]
        self.gradient: Any = chunk_gradient

    def compile(self, compiled: bool) -> None:
        """Compile the part of the step that is the loss's, or do so no more."""
        self.gradient = backend.compile_regions([chunk_gradient])[0] if compiled else chunk_gradient

    def from_hidden_states(
        self,
        hidden: Tensor,
        head: Tensor,
        targets: Mapping[str, Tensor],
        weights: Tensor,
        training: bool = True,
        head_trainable: bool = True,
    ) -> Tensor:
        """Scalar loss of hidden states (B, T, D) with output embeddings `head` (V, D).

        Args:
            targets: see the class.
            weights: (B, T), of the loss; 0 for a token that is not of a completion.
            training: also compute the gradient.
            head_trainable: the gradient for the head too.
        """
        targets = {name: ops.convert_to_tensor(value) for name, value in targets.items()}
        weights = ops.convert_to_tensor(weights, "float32")
        log_probs = token_log_probs(
            tempered(hidden, self.temperature), head, targets["token_ids"], self.chunk, training,
            head_trainable, self.gradient,
        )  # (B, T)  # fmt: skip
        mask = ops.cast(weights > 0, "float32")
        # Where there is no completion, nothing may be infinite: 0 times infinity is NaN.
        log_probs = ops.where(mask > 0, log_probs, 0.0)
        old = ops.stop_gradient(log_probs) if self.one_update else targets["old_log_probs"]
        objective, clipped = clipped_objective(
            log_probs,
            ops.where(mask > 0, old, 0.0),
            targets["advantages"],
            self.epsilon,
            self.epsilon_high,
        )
        losses, values = -objective, {"entropy": -log_probs, "clip_ratio": clipped}
        if self.beta:
            reference = ops.where(mask > 0, targets["ref_log_probs"], 0.0)
            values["kl"] = kl_estimate(log_probs, reference)
            losses = losses + self.beta * values["kl"]
        for metric in self.metrics:
            metric.update_state(ops.stop_gradient(values[metric.name]), mask)
        return ops.sum(losses * weights)

    def call(self, y_true: Any, y_pred: Tensor) -> Tensor:
        """Not of logits: raises `NotImplementedError`."""
        raise NotImplementedError("GRPOLoss is the loss of a kgpt.GPT, by `from_hidden_states`.")

    def get_config(self) -> dict[str, Any]:
        names = ("temperature", "beta", "epsilon", "epsilon_high", "chunk", "one_update")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class LastMean(keras.metrics.Metric):
    """The mean of what the latest batch has."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.mean = self.add_variable(shape=(), initializer="zeros", name="mean")

    def update_state(self, values: Tensor, mask: Tensor) -> None:
        """Values (B, T), of which those with mask (B, T) 1 count."""
        self.mean.assign(ops.sum(values * mask) / ops.maximum(ops.sum(mask), 1.0))

    def result(self) -> Tensor:
        return self.mean.value
