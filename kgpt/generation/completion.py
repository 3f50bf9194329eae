"""The completion of a prompt as one value, joined from its chunks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from kgpt.errors import KgptError, OutOfMemoryError
from kgpt.generation.grammar import NoTokenAllowed
from kgpt.generation.scheduler import GenerationJob
from kgpt.protocol import FinishReason, GenerationChunk, TokenInfo, Usage


class GenerationFailed(KgptError):
    """The engine failed while it generated a completion."""


def check_chunk(chunk: GenerationChunk) -> None:
    """Raise `GenerationFailed`, or `OutOfMemoryError`, if the completion ended with an error."""
    if chunk.finish_reason == "error":
        kind = OutOfMemoryError if chunk.out_of_memory else GenerationFailed
        raise kind(chunk.error or "Generation failed.")


def last_chunk(chunk: GenerationChunk, job: GenerationJob, usage: Usage) -> GenerationChunk:
    """`chunk`, the last of a completion, with what describes the whole completion."""
    return replace(
        chunk,
        usage=usage,
        error=str(job.error) if job.error else None,
        out_of_memory=isinstance(job.error, OutOfMemoryError),
        no_token_allowed=isinstance(job.error, NoTokenAllowed),
        context_shifted=job.context_shifted,
    )


@dataclass
class Completion:
    """The whole continuation of a prompt. The attributes are those of `GenerationChunk`."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    token_ids: list[int] = field(default_factory=list)
    tokens: list[TokenInfo] = field(default_factory=list)
    stop: str | None = None
    context_shifted: bool = False
    receipt: dict[str, Any] | None = None

    @classmethod
    def from_chunks(cls, chunks: Iterable[GenerationChunk]) -> Completion:
        """Join the chunks of one completion, up to its last.

        Raises:
            GenerationFailed: the engine failed. OutOfMemoryError: it ran out of memory.
        """
        text: list[str] = []
        tokens: list[TokenInfo] = []
        token_ids: list[int] = []
        for chunk in chunks:
            text.append(chunk.text)
            tokens += chunk.tokens
            token_ids += chunk.token_ids
            if chunk.finish_reason is not None:
                break
        check_chunk(chunk)
        assert chunk.usage is not None and chunk.finish_reason is not None
        return cls(
            "".join(text),
            chunk.finish_reason,
            chunk.usage,
            token_ids,
            tokens,
            chunk.stop,
            chunk.context_shifted,
            chunk.receipt,
        )

    def as_dict(self, prompt: str) -> dict[str, Any]:
        """What `kgpt generate --json` prints; the receipt only where there is one."""
        receipt = {"receipt": self.receipt} if self.receipt else {}
        return {
            "prompt": prompt,
            "text": self.text,
            "finish_reason": self.finish_reason,
            "context_shifted": self.context_shifted,
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "cached_tokens": self.usage.cached_tokens,
            },
            **receipt,
        }
