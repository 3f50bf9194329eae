"""Speculative decoding: guess several tokens cheaply, check them in one pass of the model.

The guesses come from a smaller model, or from the text itself (what followed the last tokens when
they occurred before: prompt lookup). The text is exactly the one written without guesses, greedy
or sampled, for the draft model draws with the same noise and a wrong guess is simply dropped.
(Leviathan et al., 2023, preserve the distribution; a shared noise preserves the sample.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from kgpt.generation.runner import ModelRunner, Token
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT

NUM_SPECULATIVE_TOKENS = 6  # tokens guessed at a time
MAX_NGRAM, MIN_NGRAM = 4, 1  # length of the ending that is looked up

Guess = Callable[[list[int]], list[int]]  # the text so far -> what may come next


def speculative(
    model: GPT, request: Request, draft: GPT | None = None, context: int | None = None
) -> Iterator[list[Token]]:
    """Write a text, giving tokens as they are confirmed; without `draft`, guesses are looked up."""
    batch = ModelRunner(model, 1, context)
    guess = prompt_lookup if draft is None else _DraftModel(draft, request).guess
    batch.join(0, request)
    row = batch.rows[0]
    while row.finish is None:
        while not row.writing:
            batch.read([0])
        fits = row.place + NUM_SPECULATIVE_TOKENS + 1 < batch.context
        guesses = guess(row.text)[:NUM_SPECULATIVE_TOKENS] if fits and not request.alternatives else []
        tokens = batch.write_checked(guesses, NUM_SPECULATIVE_TOKENS) if guesses else batch.write(1)[0]
        yield tokens


def prompt_lookup(text: list[int], ahead: int = NUM_SPECULATIVE_TOKENS) -> list[int]:
    """What followed the latest earlier occurrence of the text's ending.

    >>> prompt_lookup([1, 2, 3, 4, 5, 1, 2, 3])
    [4, 5, 1, 2, 3]
    """
    ids = np.asarray(text)
    for length in range(min(MAX_NGRAM, len(ids) - 1), MIN_NGRAM - 1, -1):
        ending = ids[-length:]
        windows = np.lib.stride_tricks.sliding_window_view(ids[:-1], length)
        places = np.flatnonzero((windows == ending).all(axis=1))
        if places.size:
            follows = int(places[-1]) + length
            return ids[follows : follows + ahead].tolist()
    return []


class _DraftModel:
    """A smaller model that writes the same request ahead."""

    def __init__(self, model: GPT, request: Request):
        self.batch = ModelRunner(model, 1)
        longer = request.sampling.model_copy(
            update={"max_tokens": request.sampling.max_tokens + NUM_SPECULATIVE_TOKENS}
        )
        self.batch.join(0, replace(request, sampling=longer, alternatives=False))

    def guess(self, text: list[int]) -> list[int]:
        if len(text) + NUM_SPECULATIVE_TOKENS >= self.batch.context:
            return []
        self.batch.rewind(0, text)
        while not self.batch.rows[0].writing:
            self.batch.read([0])
        return [token.id for token in self.batch.write(NUM_SPECULATIVE_TOKENS).get(0, [])]
