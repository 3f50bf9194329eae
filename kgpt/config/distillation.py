"""The teacher of a distillation and its loss: `DistillConfig`."""

from __future__ import annotations

from pydantic import Field

from kgpt.config.model import ModelConfig
from kgpt.config.section import Section


class DistillConfig(Section):
    """Distillation (Hinton et al., 2015): a student learns a teacher's distributions, too."""

    teacher: str | None = Field(
        None,
        description="The model to learn from, with the tokenizer of the data: a directory, a run, "
        "run@step or a hub id.",
    )
    temperature: float = Field(
        2.0, gt=0, description="Both distributions are softened by it before they are compared."
    )
    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the soft loss, the divergence from the teacher; the rest is that of "
        "the cross-entropy of the data.",
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="Learn the teacher's k most likely tokens alone, renormalised; all of them "
        "when not given.",
    )


def draft_of(model: ModelConfig) -> ModelConfig:
    """A small architecture of the same kind and vocabulary, to draft tokens for `model`.

    It has a quarter of the layers and half the heads, each as wide, so that a token costs it about
    a sixteenth.

    >>> draft_of(ModelConfig(num_layers=12, num_heads=12, hidden_dim=768)).num_layers
    3
    """
    heads = max(1, model.num_heads // 2)
    shared = max(k for k in range(1, heads + 1) if heads % k == 0 and k <= model.num_kv_heads)
    changes = {
        "num_layers": max(1, model.num_layers // 4),
        "num_heads": heads,
        "num_kv_heads": shared,
        "hidden_dim": model.hidden_dim * heads // model.num_heads,
        "intermediate_dim": max(1, model.intermediate_dim * heads // model.num_heads),
    }
    return ModelConfig.model_validate(model.model_dump() | changes)
