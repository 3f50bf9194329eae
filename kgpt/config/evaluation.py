"""What a model is evaluated on, and how: `EvaluationConfig`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kgpt.config.precision import InferenceDtype
from kgpt.config.section import Section, TextList


class EvaluationConfig(Section):
    """The options of `kgpt eval`, and the keys of an evaluation in a suite."""

    data: TextList = Field(
        [],
        description="A data set made by `kgpt data prepare`, or files of documents: .txt, .md, "
        ".jsonl, .json, .csv or .parquet. May be given repeatedly.",
    )
    split: Literal["val", "train", "all"] = Field(
        "val", description="The split of a data set that is evaluated; files are used whole."
    )
    text_field: str = Field("text", description="The field of rows with the text.")
    separator: str | None = Field(
        None, description="String between the documents of a text; one document a file without it."
    )
    limit: int | None = Field(
        None, ge=1, description="Evaluate only this many documents or prompts, the first ones."
    )
    context: int | None = Field(
        None, ge=2, description="Tokens of a window; the model's context when not given."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens between the starts of two windows: each token is predicted from at "
        "least context - stride others; context when not given, which is the fastest.",
    )
    first_token: bool = Field(
        True,
        description="Predict the first token of a text, too, from the token that begins documents.",
    )
    batch_tokens: int = Field(4096, ge=1, description="Tokens of a forward pass.")
    dtype: InferenceDtype = Field(
        "float32",
        description="Weights and computation; tensorfloat32 is float32 with the matrix products "
        "of a GPU in TF32; int8 quantizes the linear layers (W8A8).",
    )
    resamples: int = Field(
        2000, ge=1, description="Draws of the bootstrap, which gives the confidence intervals."
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the intervals.")
    bootstrap_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the bootstrap.")
