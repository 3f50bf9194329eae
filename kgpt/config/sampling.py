"""The options of sampling and search: `SamplingConfig`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from kgpt.config.section import Section, TextList


class SamplingConfig(Section):
    """How tokens are sampled. Temperature 0 is greedy."""

    max_tokens: int = Field(200, ge=1, description="Maximum number of tokens to generate.")
    min_tokens: int = Field(0, ge=0, description="Tokens before end-of-text is allowed.")
    temperature: float = Field(
        1.0, ge=0, le=100, description="Divides the logits: higher is more random, 0 is greedy."
    )
    top_k: int = Field(0, ge=0, description="Keep the k most likely tokens; 0 keeps all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Nucleus: keep the most likely tokens up to this total."
    )
    min_p: float = Field(0.0, ge=0, le=1, description="Drop tokens with p < min_p × p_max.")
    typical_p: float = Field(
        1.0, gt=0, le=1, description="Locally typical sampling: keep tokens up to this total."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Above 1 makes tokens that are in the context less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logits of generated tokens."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a token's logit each time it is generated."
    )
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, max_length=1024, description="Added to the logits of these token ids."
    )
    bad_words: TextList = Field(
        [], max_length=64, description="Words and phrases that are never generated."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="Seed for reproducible sampling; random if not given."
    )
    stop: TextList = Field(
        [], max_length=64, description="Strings that end generation; not part of the result."
    )
    beam_size: int = Field(1, ge=1, le=64, description="Number of beams; 1 is no beam search.")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="Beam search: above 0 favours longer sequences."
    )
    early_stopping: bool = Field(
        False, description="Beam search: stop once beam_size sequences are finished."
    )
    contrastive_alpha: float = Field(
        0.0, ge=0, le=1, description="Contrastive search over top_k: degeneration penalty."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        if self.beam_size > 1 and self.contrastive_alpha:
            raise ValueError("beam_size and contrastive_alpha exclude each other; give one of them")
        return self
