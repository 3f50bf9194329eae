"""Speculative decoding: draft several tokens cheaply, verify them in one forward pass.

Drafts come from a smaller model, or from the text itself: what followed its last tokens when they
occurred before (prompt lookup). The output is exactly the one without drafts, greedy or sampled:
the draft model samples with the same noise, and a rejected draft is dropped. (Leviathan et al.,
2023, preserve the distribution; shared noise preserves the sample.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT

NUM_SPECULATIVE_TOKENS = 6  # drafted at a time
MAX_NGRAM, MIN_NGRAM = 4, 1  # length of the ending that prompt lookup searches for

DraftSource = GPT | Literal["prompt_lookup"]
Propose = Callable[[list[int]], list[int]]  # the tokens so far -> draft tokens


@dataclass
class DraftStats:
    """How often drafts were right: `accepted` of `drafted` tokens, in `steps` verifications."""

    steps: int = 0
    drafted: int = 0
    accepted: int = 0


def speculative_decode(
    model: GPT,
    request: Request,
    draft_model: DraftSource,
    max_context: int | None = None,
    stats: DraftStats | None = None,
) -> Iterator[list[GeneratedToken]]:
    """Yield tokens as they are verified; count drafts in `stats`."""
    stats = stats or DraftStats()
    runner = ModelRunner(model, 1, max_context)
    propose: Propose = prompt_lookup
    if draft_model != "prompt_lookup":
        propose = _DraftModel(draft_model, request).propose
    runner.add(0, request)
    sequence = runner.sequences[0]
    while sequence.finish_reason is None:
        while not sequence.is_decoding:
            runner.prefill([0])
        end = sequence.cache_position + NUM_SPECULATIVE_TOKENS + 1
        draft: list[int] = []
        if end < runner.max_context and not request.return_logprobs:
            draft = propose(sequence.token_ids)[:NUM_SPECULATIVE_TOKENS]
        if draft:
            usable = min(len(draft), sequence.remaining_tokens - 1)  # before the last one
            tokens = runner.verify_draft(draft, NUM_SPECULATIVE_TOKENS)
            stats.steps, stats.drafted = stats.steps + 1, stats.drafted + usable
            stats.accepted += len(tokens) - 1  # the last one is the model's own
            yield tokens
        else:
            yield runner.decode(1)[0]


def prompt_lookup(token_ids: list[int], num_tokens: int = NUM_SPECULATIVE_TOKENS) -> list[int]:
    """What followed the latest earlier occurrence of the longest repeated ending.

    >>> prompt_lookup([1, 2, 3, 4, 5, 1, 2, 3])
    [4, 5, 1, 2, 3]
    """
    ids = np.asarray(token_ids)
    for length in range(min(MAX_NGRAM, len(ids) - 1), MIN_NGRAM - 1, -1):
        ending = ids[-length:]
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
        matches = np.flatnonzero((windows == ending).all(axis=1))
        if matches.size:
            following = int(matches[-1]) + length
            return [int(token) for token in ids[following : following + num_tokens]]
    return []


class _DraftModel:
    """A smaller model that runs ahead on the same request."""

    def __init__(self, model: GPT, request: Request):
        self.runner = ModelRunner(model, 1)
        longer = request.sampling.model_copy(
            update={"max_tokens": request.sampling.max_tokens + NUM_SPECULATIVE_TOKENS}
        )
        self.runner.add(0, replace(request, sampling=longer, return_logprobs=False, adapter=None))

    def propose(self, token_ids: list[int]) -> list[int]:
        if len(token_ids) + NUM_SPECULATIVE_TOKENS >= self.runner.max_context:
            return []
        self.runner.rewind(0, token_ids)
        while not self.runner.sequences[0].is_decoding:
            self.runner.prefill([0])
        return [token.id for token in self.runner.decode(NUM_SPECULATIVE_TOKENS).get(0, [])]
