"""From tokens to text as they come: whole characters, stop strings, banned phrases, log-probs."""

from __future__ import annotations

from dataclasses import dataclass, field

from kgpt.generation.runner import Token
from kgpt.generation.sequence import Request
from kgpt.generation.stop_sequences import StopSequenceMatcher
from kgpt.text.tokenizer import Tokenizer


@dataclass
class Usage:
    """What a text took."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0  # of the prompt, remembered from an earlier text


@dataclass
class Alternative:
    """A token that might have been: its log-probability under the model, and its probability
    after all sampling controls."""

    id: int
    text: str
    bytes: bytes
    logprob: float
    filtered: float


@dataclass
class TokenInfo:
    """A token that was written, with the likeliest at its place."""

    id: int
    text: str
    bytes: bytes
    logprob: float
    top: list[Alternative] = field(default_factory=list)


@dataclass
class GenerationChunk:
    """A piece of a text. The last one says why it ended."""

    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)  # behind `text`, if asked for
    ids: list[int] = field(default_factory=list)  # written since the last event
    finish_reason: str | None = None  # stop, length, content_filter, cancelled, deadline, error
    stop: str | None = None  # the stop string met
    usage: Usage | None = None
    error: str | None = None
    shifted: bool = False


class IncrementalDetokenizer:
    """Turns the tokens of one request into events.

    Args:
        tokenizer: of the model.
        request: what is being written.
        top_logprobs: how many alternatives each token is reported with; None for no report.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request, top_logprobs: int | None = None):
        self.tokenizer = tokenizer
        self.top_logprobs = top_logprobs
        self.stop_ids = frozenset(request.stop_ids)
        self.count = 0  # tokens written
        self._banned = {phrase for phrase in request.sampling.bad_words if phrase}
        self._stream = tokenizer.stream()
        self._scanner = StopSequenceMatcher([*request.sampling.stop, *self._banned])
        self._waiting: list[tuple[int, TokenInfo]] = []  # end of its text, token
        self._decoded = 0  # characters so far, and of them shown
        self._shown = 0

    def feed(self, tokens: list[Token], finish: str | None) -> GenerationChunk:
        """The event for new tokens; `finish` as in `Job.finish`."""
        event = GenerationChunk()
        for token in tokens:
            self.count += 1
            event.ids.append(token.id)
            if token.id in self.stop_ids:
                continue
            piece = self._stream.feed(token.id)
            self._decoded += len(piece)
            if self.top_logprobs is not None:
                self._waiting.append((self._decoded, self._info(token)))
            event.text += self._scanner.feed(piece)
            if self._scanner.met is not None:
                break
        if finish is not None and self._scanner.met is None:
            event.text += self._scanner.feed(self._stream.finish())
            if self._scanner.met is None:
                event.text += self._scanner.finish()
        self._shown += len(event.text)
        whole = finish is not None and self._scanner.met is None
        while self._waiting and (whole or self._waiting[0][0] <= self._shown):
            event.tokens.append(self._waiting.pop(0)[1])
        if self._scanner.met is not None:
            banned = self._scanner.met in self._banned
            event.finish_reason = "content_filter" if banned else "stop"
            event.stop = None if banned else self._scanner.met
        else:
            event.finish_reason = finish
        return event

    def _info(self, token: Token) -> TokenInfo:
        top = [
            Alternative(other, *self._spelled(other), logprob, filtered)
            for other, logprob, filtered in token.top[: self.top_logprobs]
        ]
        return TokenInfo(token.id, *self._spelled(token.id), token.logprob or 0.0, top)

    def _spelled(self, token_id: int) -> tuple[str, bytes]:
        """A token's text, with U+FFFD for half a character, and its bytes."""
        raw = self.tokenizer.bytes_of(token_id)
        if raw is None:
            name = self.tokenizer.special.get(token_id, "")
            return name, name.encode()
        return raw.decode("utf-8", errors="replace"), raw
