"""A completion under way, for whoever submitted it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from kgpt.generation.completion import last_chunk
from kgpt.generation.detokenize import IncrementalDetokenizer
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.receipt import OpenReceipt
from kgpt.generation.scheduler import GenerationJob
from kgpt.protocol import GenerationChunk, Usage

OnChunk = Callable[[GenerationChunk], None]


class Handle:
    """A completion under way.

    Args:
        num_prompt_tokens: of its prompt.
        on_chunk: called in the engine's thread with each chunk.
        receipt: goes with the last chunk, if it is wanted.

    Attributes:
        done: set after its last chunk.
        cancel: ends it at the next step.
    """

    def __init__(
        self,
        detokenizer: IncrementalDetokenizer,
        num_prompt_tokens: int,
        on_chunk: OnChunk,
        receipt: OpenReceipt | None = None,
    ) -> None:
        self._detokenizer, self._on_chunk = detokenizer, on_chunk
        self._num_prompt_tokens, self._receipt = num_prompt_tokens, receipt
        self.done = threading.Event()
        self.cancel: Callable[[], None] = lambda: None

    def on_tokens(
        self, job: GenerationJob, tokens: list[GeneratedToken], finish_reason: str | None
    ) -> None:
        """Pass on what the engine generated, as text."""
        if self.done.is_set():
            return
        chunk = self._detokenizer.feed(tokens, finish_reason)
        if self._receipt is not None:
            self._receipt.add(chunk.text)
        if chunk.finish_reason is None:
            if chunk.text or chunk.tokens:
                self._on_chunk(chunk)
            return
        if finish_reason is None:  # a stop string ended it: free the slot
            job.cancelled = True
        usage = Usage(self._num_prompt_tokens, self._detokenizer.num_tokens, job.cached_tokens)
        chunk = last_chunk(chunk, job, usage)
        if self._receipt is not None and chunk.finish_reason is not None:
            made = self._receipt.close(chunk.finish_reason, usage.completion_tokens)
            chunk = replace(chunk, receipt=made)
        self._on_chunk(chunk)
        self.done.set()
