"""How the next token is chosen: `SamplingConfig`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from kgpt.config.section import Section


class SamplingConfig(Section):
    """How the next token is chosen. Temperature 0 is greedy."""

    max_tokens: int = Field(200, ge=1, description="Most tokens to generate.")
    min_tokens: int = Field(0, ge=0, description="Fewest tokens before end-of-text is allowed.")
    temperature: float = Field(
        1.0, ge=0, le=100, description="Below 1 is safer, above 1 wilder; 0 takes the likeliest."
    )
    top_k: int = Field(0, ge=0, description="Keep the k likeliest tokens; 0 keeps all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Nucleus: keep the most probable tokens up to this total."
    )
    min_p: float = Field(0.0, ge=0, le=1, description="Drop tokens with p < min_p × p_max.")
    typical_p: float = Field(
        1.0, gt=0, le=1, description="Locally typical sampling: keep tokens up to this total."
    )
    repetition_penalty: float = Field(
        1.0, gt=0, le=10, description="Above 1 makes tokens already present less likely."
    )
    presence_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from the logit of tokens already generated."
    )
    frequency_penalty: float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a logit for each time it was generated."
    )
    logit_bias: dict[Annotated[int, Field(ge=0)], Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, max_length=1024, description="Added to the logits of these token ids."
    )
    bad_words: list[str] = Field(
        [], max_length=64, description="Words and phrases that are never generated."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**31, description="The same seed gives the same text; random if not given."
    )
    stop: list[str] = Field(
        [], max_length=64, description="Strings that end the text; they are not returned."
    )
    beam_size: int = Field(1, ge=1, le=64, description="Beams searched; 1 is no beam search.")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="Beam search: above 0 favours longer texts."
    )
    early_stopping: bool = Field(
        False, description="Beam search: end as soon as there are enough finished texts."
    )
    contrastive_alpha: float = Field(
        0.0, ge=0, le=1, description="Contrastive search over top_k: degeneration penalty."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        if self.beam_size > 1 and self.contrastive_alpha:
            raise ValueError("beam_size and contrastive_alpha are two searches; give one of them")
        return self
