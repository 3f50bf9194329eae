"""The options of DPO, IPO, KTO and ORPO: `PreferenceConfig`."""

from __future__ import annotations

from pydantic import Field

from kgpt.config.section import Section

PREFERENCE_OBJECTIVES = ("dpo", "ipo", "kto", "orpo")


class PreferenceConfig(Section):
    """Learning from preferences, in the words of trl's `DPOTrainer`, `KTOTrainer`, `ORPOTrainer`.

    `train.batch_size` pairs are in a forward pass; with kto, completions.
    """

    beta: float = Field(
        0.1,
        gt=0,
        description="Strength of the loss: a larger beta keeps the model closer to its reference "
        "(dpo, ipo, kto), or weighs the odds ratio more (orpo).",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs taken to be the wrong way round (dpo)."
    )
    desirable_weight: float = Field(
        1.0, ge=0, description="Factor on the losses of good completions (kto)."
    )
    undesirable_weight: float = Field(
        1.0, ge=0, description="Factor on the losses of bad completions (kto)."
    )
    precompute_ref_log_probs: bool | None = Field(
        None,
        description="Compute the log-probabilities of the reference once, before the first step; "
        "when not given, in full fine-tuning, where there is no other way without a second model. "
        "Otherwise each step computes them by the model without its adapters.",
    )
