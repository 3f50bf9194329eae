"""The data and the labels of a classifier: `ClassificationConfig`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field

from kgpt.config.section import Section, TextList


def _parsed(value: Any) -> Any:
    """What a flag or a field of the terminal app says: "balanced", or weights as YAML."""
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


ClassWeights = Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(_parsed)]


class ClassificationConfig(Section):
    """What a classifier learns: texts with labels. The base model is `finetune.model`."""

    data: TextList = Field(
        [], description="Files of rows with text and label: .csv, .jsonl, .json or .parquet."
    )
    val_data: TextList = Field(
        [],
        description="Such files to validate on; a share of the data, val_fraction, when not given.",
    )
    text_field: str = Field("text", description="The field of rows with the text.")
    label_field: str = Field("label", description="The field of rows with the label.")
    multi_label: bool = Field(
        False, description="A text has any number of labels: a list, or divided by label_separator."
    )
    label_separator: str = Field(
        "|", min_length=1, description="What divides several labels in one text."
    )
    labels: TextList = Field(
        [], description="The labels in the order of their scores; the data's when not given."
    )
    val_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of the texts of each label held out for validation."
    )
    class_weights: ClassWeights = Field(
        None,
        description="Weights of the labels in the loss: balanced (inversely proportional to how "
        "often a label occurs), or a weight for each, as in {rare: 5}; 1 each when not given.",
    )
    vocab_size: int = Field(
        2048,
        ge=259,
        description="Size of the byte-level BPE vocabulary of a classifier without a base model.",
    )
