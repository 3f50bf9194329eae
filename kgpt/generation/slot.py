"""What a slot of the model runner contains: one sequence, from its prompt to its last token."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.generation.sequence import Request

if TYPE_CHECKING:
    from kgpt.generation.grammar import TokenMatcher


@dataclass
class Sequence:
    """The content of a slot: the request, its tokens, and how many of them are in the cache."""

    request: Request = field(default_factory=lambda: Request((), SamplingConfig()))
    token_ids: list[int] = field(default_factory=list)  # prompt and generated
    cache_offset: int = 0  # index in `token_ids` of the token at position 0 of the cache
    num_computed_tokens: int = 0  # filled positions of the cache
    is_decoding: bool = False  # the prompt is computed
    context_shifted: bool = False  # oldest tokens were dropped
    finish_reason: str | None = None  # "stop", "length" or "error"
    error: KgptError | None = None  # why, with "error"
    num_cached_tokens: int = 0  # prompt tokens found in the cache
    last_used: int = 0  # the runner's count of additions and releases at the latest one

    def __post_init__(self) -> None:
        grammar = self.request.grammar
        self.matcher: TokenMatcher | None = grammar.matcher() if grammar else None

    def follow_grammar(self, ids: list[int]) -> None:
        """Advance by new tokens; a text that is complete, or that nothing can follow, ends."""
        if self.matcher is None:
            return
        try:
            for token in ids:
                self.matcher.accept(token)
        except KgptError as error:
            self.finish_reason, self.error = "error", error
            return
        if self.matcher.is_complete:
            self.finish_reason = "stop"

    @property
    def num_pending_tokens(self) -> int:
        """Tokens to prefill before the last one, which decoding starts from."""
        return self.cache_position - self.num_computed_tokens

    @property
    def output_ids(self) -> list[int]:
        return self.token_ids[len(self.request.prompt_ids) :]

    @property
    def remaining_tokens(self) -> int:
        """Tokens that may still be generated."""
        return self.request.sampling.max_tokens - len(self.output_ids)

    @property
    def cache_position(self) -> int:
        """Cache position of the newest token."""
        return len(self.token_ids) - 1 - self.cache_offset


def token_bitmask(sequences: Iterable[Sequence], vocab_size: int) -> np.ndarray:
    """(B, ceil(V / 32)) int32: the tokens that may come next in each sequence, by bits."""
    every = np.full(-(-vocab_size // 32), -1, "int32")
    matchers = [sequence.matcher for sequence in sequences]
    return np.stack([every if matcher is None else matcher.bitmask for matcher in matchers])
