"""A generated token, read from the output of a decode call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kgpt.generation.decode import DecodeOutput


@dataclass
class GeneratedToken:
    """A generated token; log-probabilities and the best candidates where the request asks.

    Attributes:
        top_logprobs: (id, log-probability under the model, sampling probability), best first.
    """

    id: int
    logprob: float | None = None
    top_logprobs: list[tuple[int, float, float]] = field(default_factory=list)


def plain_token(output: DecodeOutput, row: int, step: int) -> GeneratedToken:
    """The token that a row of a batch generated in a step."""
    return GeneratedToken(int(output.tokens[row, step]))


def token_with_logprobs(output: DecodeOutput, row: int, step: int) -> GeneratedToken:
    """The same with its log-probabilities."""
    token, logprob, *top = (part[row, step] for part in output)
    candidates = zip(*(part.tolist() for part in top), strict=True)
    return GeneratedToken(int(token), float(logprob), list(candidates))
