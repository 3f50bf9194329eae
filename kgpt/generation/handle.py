"""A completion under way, for whoever submitted it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kgpt.generation.completion import last_chunk
from kgpt.generation.detokenize import IncrementalDetokenizer
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.scheduler import GenerationJob
from kgpt.protocol import GenerationChunk, Usage

OnChunk = Callable[[GenerationChunk], None]


class Handle:
    """A completion under way.

    Args:
        num_prompt_tokens: of its prompt.
        on_chunk: called in the engine's thread with each chunk.

    Attributes:
        done: set after its last chunk.
        cancel: ends it at the next step.
    """

    def __init__(
        self, detokenizer: IncrementalDetokenizer, num_prompt_tokens: int, on_chunk: OnChunk
    ) -> None:
        self._detokenizer, self._on_chunk = detokenizer, on_chunk
        self._num_prompt_tokens = num_prompt_tokens
        self.done = threading.Event()
        self.cancel: Callable[[], None] = lambda: None

    def on_tokens(
        self, job: GenerationJob, tokens: list[GeneratedToken], finish_reason: str | None
    ) -> None:
        """Pass on what the engine generated, as text."""
        if self.done.is_set():
            return
        chunk = self._detokenizer.feed(tokens, finish_reason)
        if chunk.finish_reason is None:
            if chunk.text or chunk.tokens:
                self._on_chunk(chunk)
            return
        if finish_reason is None:  # a stop string ended it: free the slot
            job.cancelled = True
        usage = Usage(self._num_prompt_tokens, self._detokenizer.num_tokens, job.cached_tokens)
        self._on_chunk(last_chunk(chunk, job, usage))
        self.done.set()
