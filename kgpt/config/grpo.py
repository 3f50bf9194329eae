"""The options of GRPO, which trains a model by rewards: `GRPOConfig`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kgpt.config.section import Section, TextList


class GRPOConfig(Section):
    """Group Relative Policy Optimization (Shao et al., 2024), in the words of trl's `GRPOTrainer`.

    Each update generates `train.batch_size * train.grad_accumulation` completions,
    `num_generations` of each prompt, and compares the rewards of those of one prompt.
    """

    prompts: TextList = Field(
        [],
        description="Files of rows with a prompt each, a text or messages; the other fields of a "
        "row go to the reward functions.",
    )
    reward: TextList = Field(
        [],
        description="Reward functions: file.py:function, the name of an installed entry point in "
        "the group kgpt.rewards, or tinyworld. The code of such a file is run.",
    )
    reward_weights: list[float] | None = Field(
        None, description="Factors of the rewards in their sum; 1 each when not given."
    )
    num_generations: int = Field(8, ge=2, description="Completions of each prompt: a group.")
    max_completion_length: int = Field(
        256, ge=1, description="Tokens of a completion, at most; the prompt may fill the rest."
    )
    temperature: float = Field(1.0, gt=0, description="Temperature of the completions.")
    max_num_seqs: int = Field(64, ge=1, description="Completions that are decoded at once.")
    beta: float = Field(
        0.0, ge=0, description="Weight of the KL divergence from the model before training."
    )
    epsilon: float = Field(0.2, gt=0, lt=1, description="The ratio is clipped below 1 - epsilon.")
    epsilon_high: float | None = Field(
        None, gt=0, description="And above 1 + epsilon_high; epsilon when not given."
    )
    num_iterations: int = Field(
        1, ge=1, description="Updates with the same completions; above 1 the ratio is not always 1."
    )
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group",
        description="Divide the advantages by the standard deviation of the rewards of the group "
        "or of the batch.",
    )
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field(
        "dapo",
        description="Mean over tokens: grpo in each completion, then over those; bnpo in each "
        "batch; dapo in each update; dr_grpo divides by max_completion_length.",
    )
    mask_truncated_completions: bool = Field(
        False, description="Leave completions that did not end out of the loss."
    )

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        weights = self.reward_weights
        if weights is not None and len(weights) != len(self.reward):
            raise ValueError(f"{len(self.reward)} rewards have {len(weights)} reward_weights")
        return self
