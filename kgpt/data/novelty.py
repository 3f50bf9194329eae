"""How much of a generated text is copied from a data set, and from where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kgpt.data.suffix_array import SuffixArray

MIN_TOKENS = 16


@dataclass(frozen=True)
class Span:
    """Tokens [start, start + tokens) of a text that stand in a data set.

    Attributes:
        split, token: one place where they stand: the offset in the split of the first.
    """

    start: int
    tokens: int
    split: str
    token: int


@dataclass(frozen=True)
class Novelty:
    """What of a text is copied.

    Attributes:
        tokens: of the text.
        copied: the share of its tokens in spans of `min_tokens` or more that stand in the data set.
        longest: the longest span that stands there, however short; None if no token does.
        min_tokens: the shortest span that counts as copied.
    """

    tokens: int
    copied: float
    longest: Span | None
    min_tokens: int


def novelty(
    ids: Sequence[int] | np.ndarray, index: dict[str, SuffixArray], min_tokens: int = MIN_TOKENS
) -> Novelty:
    """What of a text is copied from the data set of `index` (see McCoy et al., 2023).

    Args:
        ids: the tokens of the text.
        index: the suffix array of each split, of `open_suffix_arrays`.
        min_tokens: the shortest span that counts as copied.
    """
    spans = longest_spans(ids, index)
    copied = np.zeros(len(ids) + 1, np.int64)
    for span in spans:
        if span.tokens >= min_tokens:
            copied[span.start] += 1
            copied[span.start + span.tokens] -= 1
    share = float((np.cumsum(copied[:-1]) > 0).mean()) if len(ids) else 0.0
    longest = max(spans, key=lambda span: span.tokens, default=None)
    return Novelty(len(ids), share, longest, min_tokens)


def longest_spans(ids: Sequence[int] | np.ndarray, index: dict[str, SuffixArray]) -> list[Span]:
    """For each place in a text the longest span from there on, without those that have none."""
    array = np.asarray(ids, np.int64)
    spans = [
        [Span(start, match.length, split, match.position)
         for start, match in enumerate(suffixes.longest_matches(array))]
        for split, suffixes in index.items()
    ]  # fmt: skip
    longest = (max(some, key=lambda span: span.tokens) for some in zip(*spans, strict=True))
    return [span for span in longest if span.tokens]


def separate_spans(spans: list[Span], limit: int) -> list[Span]:
    """The longest spans that do not overlap, longest first."""
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda span: -span.tokens):
        if len(chosen) == limit:
            break
        if all(
            span.start + span.tokens <= other.start or other.start + other.tokens <= span.start
            for other in chosen
        ):
            chosen.append(span)
    return chosen
