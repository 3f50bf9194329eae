"""What flows from the engine to its clients: one stream of `GenerationChunk`s. No Keras here.

The engine's detokenizer makes them, the HTTP server encodes them as OpenAI JSON, and the terminal
app decodes that JSON back into the same types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length", "content_filter", "cancelled", "deadline", "error"]


@dataclass(frozen=True)
class TopLogprob:
    """One candidate for a position.

    Attributes:
        id: token id; -1 where a server does not tell it.
        text: its text, U+FFFD standing for bytes that are part of a character.
        bytes: its bytes; empty where a server does not tell them.
        logprob: log-probability under the model itself.
        sampling_prob: probability after all logits processors and warpers; None if unknown.
    """

    id: int
    text: str
    bytes: bytes
    logprob: float
    sampling_prob: float | None = None


@dataclass(frozen=True)
class TokenInfo(TopLogprob):
    """A generated token, with the most likely candidates at its position."""

    top_logprobs: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Token counts of one completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # prompt tokens found in the KV cache


@dataclass(frozen=True)
class GenerationChunk:
    """The next part of a completion. The last one carries `finish_reason` and `usage`.

    Attributes:
        text: new text; whole characters, and never part of a stop string.
        tokens: the tokens behind `text`, where logprobs were asked for.
        token_ids: ids generated since the last chunk.
        finish_reason: why generation ended; None before the last chunk.
        stop: the stop string that ended it.
        error: what failed, with the finish reason "error".
        out_of_memory: whether it failed because memory ran out.
        no_token_allowed: whether it failed because its grammar allowed no further token.
        context_shifted: the text outgrew the model's context, so its oldest tokens were dropped.
        receipt: what decided the text, for `kgpt replay`, where it was asked for.
        left_out: earlier messages of the conversation that the prompt does not have.
        index: which completion of a request with several this belongs to.
    """

    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    token_ids: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None
    usage: Usage | None = None
    error: str | None = None
    out_of_memory: bool = False
    no_token_allowed: bool = False
    context_shifted: bool = False
    receipt: dict[str, Any] | None = None
    left_out: int = 0
    index: int = 0


def merge_chunks(chunks: Sequence[GenerationChunk]) -> GenerationChunk:
    """All chunks of one completion as a single chunk.

    >>> merge_chunks([GenerationChunk("Hello "), GenerationChunk("you", finish_reason="stop")]).text
    'Hello you'
    """
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        tokens=tuple(token for chunk in chunks for token in chunk.tokens),
        token_ids=tuple(token_id for chunk in chunks for token_id in chunk.token_ids),
    )


@dataclass
class EngineStats:
    """Counters and gauges of an engine.

    Attributes:
        max_num_seqs: sequences decoded at once, at most.
        active: sequences being prefilled or decoded now.
        queued: requests waiting for a slot.
        requests: requests accepted since the start; likewise the token counts.
        cached_tokens: prompt tokens found in the KV cache.
    """

    max_num_seqs: int
    active: int = 0
    queued: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_tokens: int = 0
