"""What a model is evaluated on, and how: `EvaluationConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from kgpt.config.loading import read_yaml
from kgpt.config.precision import DTYPE_HELP, KV_CACHE_HELP, DtypeOption, KVCacheDtype
from kgpt.config.sampling import SamplingConfig
from kgpt.config.section import Section, TextList
from kgpt.errors import UsageError


class EvaluationConfig(Section):
    """The options of `kgpt eval`, and the keys of an evaluation in a suite."""

    data: TextList = Field(
        [],
        description="A data set made by `kgpt data prepare`, or files of documents: .txt, .md, "
        ".jsonl, .json, .csv or .parquet. May be given repeatedly.",
    )
    prompts: str | None = Field(
        None,
        description="A file of prompts to continue, whose completions are scored: one a line, or "
        ".jsonl with prompt or messages, and reference, references or answer.",
    )
    judge: str | None = Field(
        None,
        description="The model under whose likelihood completions are coherent; the model itself "
        "when not given.",
    )
    novelty_data: str | None = Field(
        None,
        description="A data set made by `kgpt data prepare`, in which completions are looked up: "
        "which share of them is copied.",
    )
    min_copied_tokens: int = Field(
        16, ge=1, description="Tokens of the shortest span that counts as copied."
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
    dtype: DtypeOption = Field("auto", description=DTYPE_HELP)
    kv_cache_dtype: KVCacheDtype = Field("auto", description=KV_CACHE_HELP)
    resamples: int = Field(
        2000, ge=1, description="Draws of the bootstrap, which gives the confidence intervals."
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="Of the intervals.")
    bootstrap_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the bootstrap.")


class SuiteEntry(EvaluationConfig):
    """One evaluation of a suite."""

    name: str = Field(pattern=r"^[\w-]+$", description="Of its figures: letters, digits, - and _.")
    sampling: dict[str, Any] = Field({}, description="Sampling of the completions of prompts.")


class EvaluationSuite(Section):
    """A list of evaluations, as a YAML file: `kgpt eval --suite`, `train.eval_suite`."""

    evaluations: list[SuiteEntry] = Field(min_length=1, description="The evaluations, in order.")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a file; raises `UsageError` if it is no suite."""
        values = read_yaml(file, sections=False)
        if isinstance(rows := values.get("evaluations"), list):  # which names a row in an error
            rows = [row if isinstance(row, dict) else {} for row in rows]
            values["evaluations"] = [
                SuiteEntry.parse(row, str(row.get("name", f"evaluation {number}")))
                for number, row in enumerate(rows, 1)
            ]
        suite = cls.parse(values)
        names = [entry.name for entry in suite.evaluations]
        for entry in suite.evaluations:
            SamplingConfig.parse(entry.sampling, f"{entry.name}.sampling")
            if not entry.data and entry.prompts is None:
                raise UsageError(f"The evaluation {entry.name} of {file} has no data or prompts.")
        if len(set(names)) < len(names):
            raise UsageError(f"Two evaluations of {file} have one name; rename one.")
        return suite
