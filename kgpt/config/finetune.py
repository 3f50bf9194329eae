"""What fine-tuning changes of which model: `FinetuneConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kgpt.config.section import Section, TextList

ADAPTER_METHODS = ("lora", "dora", "adapter", "prefix")
Objective = Literal["sft", "distill", "dpo", "ipo", "kto", "orpo", "grpo", "classification"]


class FinetuneConfig(Section):
    """Fine-tuning: the model that a run starts from, and which of its weights are trained."""

    objective: Objective | None = Field(
        None,
        description="What is learned: sft (supervised fine-tuning) is the next token of texts, or "
        "of the answers in conversations; distill: also what a teacher predicts; dpo, ipo, kto, "
        "orpo: preferences between completions; grpo: what reward functions reward; "
        "classification: the labels of texts. When not given, "
        "a new model is trained.",
    )
    model: str | None = Field(
        None, description="The model to fine-tune: a directory, a run, run@step or a hub id."
    )
    method: Literal["full", "lora", "dora", "adapter", "prefix"] = Field(
        "full",
        description="The weights that are trained: all of the model (full), or others beside it: "
        "LoRA or DoRA, bottleneck adapters (adapter), or a prefix of keys and values (prefix).",
    )
    base_precision: Literal["float32", "bfloat16", "int8", "int4"] = Field(
        "float32",
        description="Type of the frozen weights in memory while adapters are trained; int8 "
        "and int4 are QLoRA. The adapters are float32.",
    )
    freeze_layers: int = Field(
        0,
        ge=0,
        description="Freeze the embeddings (with an output that shares them) and this many of the "
        "first blocks. Full fine-tuning only.",
    )
    freeze: TextList = Field(
        [],
        description="Freeze the weights whose paths match one of these patterns, such as "
        "`block_0/*` or `*/mlp/*`. Full fine-tuning only.",
    )

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained, and the model's own weights are frozen."""
        return self.method in ADAPTER_METHODS
