"""From generated tokens to text: whole characters, stop strings, bad words, log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from kgpt.generation.generated_token import GeneratedToken
from kgpt.protocol import FinishReason, GenerationChunk, TokenInfo, TopLogprob
from kgpt.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kgpt.generation.sequence import Request


class StopSequenceMatcher:
    """Passes text on until one of `stops` appears; buffers what may be the start of one.

    >>> matcher = StopSequenceMatcher(["END"])
    >>> matcher.feed("the E"), matcher.feed("Nd EN"), matcher.feed("D!"), matcher.matched
    ('the ', 'ENd ', '', 'END')
    """

    def __init__(self, stops: Sequence[str]):
        self.stops = [stop for stop in stops if stop]
        self.matched: str | None = None
        self._buffer = ""

    def feed(self, text: str) -> str:
        """The part of the text so far that cannot belong to a stop string."""
        if self.matched is not None:
            return ""
        text = self._buffer + text
        found = [(index, stop) for stop in self.stops if (index := text.find(stop)) >= 0]
        if found:
            index, self.matched = min(found, key=lambda pair: pair[0])
            self._buffer = ""
            return text[:index]
        keep = max((_overlap(text, stop) for stop in self.stops), default=0)
        self._buffer = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What is still buffered, when no more text comes."""
        text, self._buffer = self._buffer, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class IncrementalDetokenizer:
    """Turns the tokens of one request into chunks of text.

    Args:
        tokenizer: of the model.
        request: what is generated.
        top_logprobs: candidates reported with each token; None reports no log-probabilities.
        keep_special: special tokens that are part of the text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        top_logprobs: int | None = None,
        keep_special: frozenset[str] = frozenset(),
    ):
        self.tokenizer = tokenizer
        self.top_logprobs = top_logprobs
        self.stop_ids = frozenset(request.stop_ids)
        self.num_tokens = 0  # fed so far
        self._bad_words = {word for word in request.sampling.bad_words if word}
        self._decoder = tokenizer.stream(keep_special=keep_special)
        self._matcher = StopSequenceMatcher([*request.sampling.stop, *self._bad_words])
        self._pending: list[tuple[int, TokenInfo]] = []  # (end of its text, token), not yet emitted
        self._decoded = 0  # characters decoded, and of them emitted
        self._emitted = 0
        self._unsent_ids: list[int] = []

    def feed(self, tokens: Sequence[GeneratedToken], finish_reason: str | None) -> GenerationChunk:
        """The chunk for new tokens; `finish_reason` is the engine's, if it has ended."""
        text, ids = "", []
        for token in tokens:
            ids.append(token.id)
            text += self._text_of(token)
            if self._matcher.matched is not None:
                break
        self.num_tokens += len(ids)
        self._unsent_ids += ids
        if finish_reason is not None:
            text += self._matcher.feed(self._decoder.finish()) + self._matcher.finish()
        self._emitted += len(text)
        stop = self._matcher.matched
        ended_by_engine = finish_reason is not None and stop is None
        if stop is not None:
            is_bad_word = stop in self._bad_words
            finish_reason, stop = ("content_filter", None) if is_bad_word else ("stop", stop)
        emitted = self._emitted_tokens(everything=ended_by_engine)
        sent_ids: list[int] = []
        if text or emitted or finish_reason:  # ids of an incomplete character wait for its end
            sent_ids, self._unsent_ids = self._unsent_ids, []
        return GenerationChunk(
            text=text,
            tokens=emitted,
            token_ids=tuple(sent_ids),
            finish_reason=cast(FinishReason | None, finish_reason),
            stop=stop,
        )

    def _text_of(self, token: GeneratedToken) -> str:
        """The text that may be emitted now that `token` has come."""
        if token.id in self.stop_ids:
            return ""
        text = self._decoder.feed(token.id)
        self._decoded += len(text)
        if self.top_logprobs is not None:
            self._pending.append((self._decoded, self._info(token)))
        return self._matcher.feed(text)

    def _emitted_tokens(self, everything: bool) -> tuple[TokenInfo, ...]:
        """The tokens whose text has been emitted since the last call."""
        count = sum(everything or end <= self._emitted for end, _ in self._pending)
        ready, self._pending = self._pending[:count], self._pending[count:]
        return tuple(token for _, token in ready)

    def _info(self, token: GeneratedToken) -> TokenInfo:
        top = [
            TopLogprob(other, *token_text_and_bytes(self.tokenizer, other), logprob, sampling_prob)
            for other, logprob, sampling_prob in token.top_logprobs[: self.top_logprobs]
        ]
        own = next((other.sampling_prob for other in top if other.id == token.id), None)
        text, raw = token_text_and_bytes(self.tokenizer, token.id)
        return TokenInfo(token.id, text, raw, token.logprob or 0.0, own, tuple(top))


def token_text_and_bytes(tokenizer: Tokenizer, token_id: int) -> tuple[str, bytes]:
    """A token's text, with U+FFFD for part of a character, and its bytes."""
    raw = tokenizer.token_bytes(token_id)
    if raw is None:
        name = tokenizer.special_by_id.get(token_id, "")
        return name, name.encode()
    return raw.decode("utf-8", errors="replace"), raw
