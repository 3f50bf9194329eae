"""Answers in the shapes of the OpenAI API: chat and plain completions, whole and in chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kgpt.protocol import GenerationChunk, TokenInfo, TopLogprob, Usage

LEAST_LOGPROB = -9999.0  # stands for minus infinity, which JSON cannot write


@dataclass
class Written:
    """One text as far as it is written."""

    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)
    finish_reason: str | None = None
    stop: str | None = None
    usage: Usage | None = None
    offset: int = 0  # characters of the tokens that were sent

    def add(self, piece: GenerationChunk) -> None:
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason, self.stop = piece.finish_reason, piece.stop
        self.usage = piece.usage or self.usage


class Shape(Protocol):
    """How one kind of answer is written in JSON."""

    kind: str  # "object" of a whole answer
    chunk_kind: str  # "object" of a chunk
    prefix: str  # of ids

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice that opens a stream of text `index`, before there is any text."""

    def part(self, piece: GenerationChunk, written: Written) -> dict[str, Any]:
        """The choice of a chunk; `written` is the text before `piece`."""

    def whole(self, index: int, written: Written) -> dict[str, Any]:
        """The choice of an answer that is sent at once."""


class ChatShape:
    """`chat.completion`. `logprobs` says whether they were asked for."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, logprobs: bool):
        self.logprobs = logprobs

    def opening(self, index: int) -> dict[str, Any] | None:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def part(self, piece: GenerationChunk, written: Written) -> dict[str, Any]:
        delta = {"content": piece.text} if piece.text else {}
        return {
            "index": piece.index,
            "delta": delta,
            "logprobs": self._logprobs(piece.tokens),
            **ending(piece.finish_reason, piece.stop),
        }

    def whole(self, index: int, written: Written) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": written.text, "refusal": None},
            "logprobs": self._logprobs(written.tokens),
            **ending(written.finish_reason, written.stop),
        }

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if not self.logprobs:
            return None
        return {"content": [token_entry(token) for token in tokens], "refusal": None}


class CompletionShape:
    """`text_completion`. `logprobs` says whether they were asked for."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, logprobs: bool):
        self.logprobs = logprobs

    def opening(self, index: int) -> dict[str, Any] | None:
        return None

    def part(self, piece: GenerationChunk, written: Written) -> dict[str, Any]:
        logprobs = self._logprobs(piece.tokens, written.offset)
        written.offset += sum(map(characters, piece.tokens))
        return {
            "index": piece.index,
            "text": piece.text,
            "logprobs": logprobs,
            **ending(piece.finish_reason, piece.stop),
        }

    def whole(self, index: int, written: Written) -> dict[str, Any]:
        return {
            "index": index,
            "text": written.text,
            "logprobs": self._logprobs(written.tokens, 0),
            **ending(written.finish_reason, written.stop),
        }

    def _logprobs(self, tokens: Sequence[TokenInfo], offset: int) -> dict[str, Any] | None:
        """OpenAI's four lists, and beside them `content` as in chat, which tells ids apart."""
        if not self.logprobs:
            return None
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += characters(token)
        return {
            "tokens": [spelled(token) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [
                {spelled(other): finite(other.logprob) for other in reversed(token.top_logprobs)}
                for token in tokens
            ],
            "text_offset": offsets,
            "content": [token_entry(token) for token in tokens],
        }


def ending(reason: str | None, stop: str | None) -> dict[str, Any]:
    """Why a text ended: "stop" or "length"; `stop_reason` is the stop string met, or "deadline"."""
    if reason == "deadline":
        return {"finish_reason": "length", "stop_reason": "deadline"}
    return {"finish_reason": reason, "stop_reason": stop}


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


def spelled(token: TopLogprob) -> str:
    """The text of a token; of one that is part of a character, its bytes as OpenAI writes them."""
    if "\ufffd" not in token.text:
        return token.text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def characters(token: TopLogprob) -> int:
    """How many characters begin in a token: bytes that are no continuation, as UTF-8 has it."""
    return sum(byte & 0xC0 != 0x80 for byte in token.bytes)


def finite(logprob: float) -> float:
    return max(float(logprob), LEAST_LOGPROB)


def usage_of(texts: list[Written], n: int) -> dict[str, Any]:
    """The tokens of all texts; the prompt of n texts counts once."""
    usages = [text.usage for text in texts if text.usage is not None]
    prompts = [text.usage for text in texts[::n] if text.usage is not None]
    read = sum(usage.prompt_tokens for usage in prompts)
    wrote = sum(usage.completion_tokens for usage in usages)
    cached = sum(usage.cached_tokens for usage in prompts)
    return {
        "prompt_tokens": read,
        "completion_tokens": wrote,
        "total_tokens": read + wrote,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
