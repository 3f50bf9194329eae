"""Chunks as JSON choices in the formats of the OpenAI API: chat and text completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from kgpt.protocol import GenerationChunk, TokenInfo, TopLogprob, Usage

MIN_LOGPROB = -9999.0  # stands for minus infinity, which JSON has no number for


class ResponseFormat(Protocol):
    """How one kind of response is encoded. `logprobs` says whether the request wants them."""

    object_type: str  # "object" of a whole response
    chunk_type: str  # "object" of a chunk of a stream
    id_prefix: str

    def first_choice(self, index: int) -> dict[str, Any] | None:
        """The choice that opens a stream before there is any text; None if there is none."""

    def delta(self, chunk: GenerationChunk) -> dict[str, Any]:
        """The choice of one chunk of a stream."""

    def deltas(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        """The choices of one chunk, one an event; none if a filter has left nothing of it."""
        delta = self.delta(chunk)
        return [delta] if chunk.text or chunk.tokens or chunk.finish_reason else []

    def choice(self, completion: GenerationChunk) -> dict[str, Any]:
        """The choice of a whole completion."""


class ChatCompletionFormat(ResponseFormat):
    """`chat.completion` and `chat.completion.chunk`."""

    object_type, chunk_type, id_prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, logprobs: bool):
        self.logprobs = logprobs

    def first_choice(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, chunk: GenerationChunk) -> dict[str, Any]:
        return {
            "index": chunk.index,
            "delta": {"content": chunk.text} if chunk.text else {},
            "logprobs": self._logprobs(chunk),
            **finish_fields(chunk),
        }

    def choice(self, completion: GenerationChunk) -> dict[str, Any]:
        return {
            "index": completion.index,
            "message": {"role": "assistant", "content": completion.text, "refusal": None},
            "logprobs": self._logprobs(completion),
            **finish_fields(completion),
        }

    def _logprobs(self, chunk: GenerationChunk) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {"content": [token_entry(token) for token in chunk.tokens], "refusal": None}


class TextCompletionFormat(ResponseFormat):
    """`text_completion`, for whole responses and for chunks."""

    object_type, chunk_type, id_prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, logprobs: bool):
        self.logprobs = logprobs
        self._text_offset: Counter[int] = Counter()  # characters encoded of each completion

    def first_choice(self, index: int) -> dict[str, Any] | None:
        return None

    def delta(self, chunk: GenerationChunk) -> dict[str, Any]:
        return {
            "index": chunk.index,
            "text": chunk.text,
            "logprobs": self._logprobs(chunk),
            **finish_fields(chunk),
        }

    def choice(self, completion: GenerationChunk) -> dict[str, Any]:
        return self.delta(completion)  # a whole completion is encoded like a chunk

    def _logprobs(self, chunk: GenerationChunk) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        offsets = []
        for token in chunk.tokens:
            offsets.append(self._text_offset[chunk.index])
            self._text_offset[chunk.index] += num_characters(token)
        return text_logprobs(chunk.tokens, offsets)


def text_logprobs(tokens: Sequence[TokenInfo], offsets: Sequence[int]) -> dict[str, Any]:
    """OpenAI's four lists, and `content` as in chat, which has token ids and bytes too."""
    return {
        "tokens": [token_string(token) for token in tokens],
        "token_logprobs": [finite(token.logprob) for token in tokens],
        "top_logprobs": [
            {token_string(top): finite(top.logprob) for top in reversed(token.top_logprobs)}
            for token in tokens
        ],
        "text_offset": list(offsets),
        "content": [token_entry(token) for token in tokens],
    }


def finish_fields(chunk: GenerationChunk) -> dict[str, Any]:
    """`finish_reason`; `stop_reason`: the stop string found, or "deadline"; and the receipt."""
    if chunk.finish_reason == "deadline":
        return {"finish_reason": "length", "stop_reason": "deadline"}
    receipt = {"kgpt_receipt": chunk.receipt} if chunk.receipt else {}
    return {"finish_reason": chunk.finish_reason, "stop_reason": chunk.stop, **receipt}


def token_entry(token: TokenInfo) -> dict[str, Any]:
    """A token, its log-probability, and those of the most likely candidates."""
    top = [logprob_entry(candidate) for candidate in token.top_logprobs]
    return logprob_entry(token) | {"top_logprobs": top}


def logprob_entry(token: TopLogprob) -> dict[str, Any]:
    """`sampling_prob` is the probability after all logits processors and warpers."""
    return {
        "token": token.text,
        "logprob": finite(token.logprob),
        "bytes": list(token.bytes),
        "id": token.id,
        "sampling_prob": token.sampling_prob,
    }


def token_string(token: TopLogprob) -> str:
    """A token's text; for a token that is part of a character, its bytes as OpenAI writes them."""
    if "\ufffd" not in token.text:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def num_characters(token: TopLogprob) -> int:
    """How many characters start in a token: its bytes that are no UTF-8 continuation bytes."""
    return sum(byte & 0xC0 != 0x80 for byte in token.bytes)


def finite(logprob: float) -> float:
    return max(float(logprob), MIN_LOGPROB)


def usage_body(usage: Usage) -> dict[str, Any]:
    """`usage` of a response."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
