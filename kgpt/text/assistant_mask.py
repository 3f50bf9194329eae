"""Which characters of a rendered conversation the assistant generates: its turns, to their ends.

A template with `{% generation %}` says so itself, as in transformers. For another one the turn is
what it adds to the conversation: it begins where the generation prompt ends, and ends with the
token that ends the turn. The places are found by rendering with markers around the assistant's
text; where those change what is rendered, by rendering with and without the turn.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from kgpt.conversations import Message, is_learned
from kgpt.errors import UsageError
from kgpt.text.jinja_sandbox import GENERATION_END, GENERATION_START

# Unicode noncharacters as markers in rendered text: inside a special token that a user typed, and
# around the assistant's text.
BREAK, SPAN_START, SPAN_END = "\ufdd0", "\ufdd1", "\ufdd2"
MARKERS = re.compile(f"[{BREAK}{SPAN_START}{SPAN_END}{GENERATION_START}{GENERATION_END}]")

Span = tuple[int, int]
Render = Callable[[Sequence[Message], bool], str]  # messages, add_generation_prompt


def overlapping(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """For each token, given by its offsets, whether it has a character within one of the spans."""
    mask = [False] * len(offsets)
    for start, stop in spans:
        first = bisect_right(offsets, start, key=lambda token: token[1])
        end = bisect_left(offsets, stop, key=lambda token: token[0])
        mask[first:end] = [True] * (end - first)
    return mask


def generation_spans(
    render_marked: Callable[[Sequence[Message]], str], messages: Sequence[Message]
) -> list[Span]:
    """The `{% generation %}` blocks in the text of `messages`, except those of weight 0.

    Args:
        render_marked: the template, with markers around generation blocks.
    """
    # A block is not learned if it contains the markers of a message that is not.
    ignored = [m["role"] == "assistant" and not is_learned(m) for m in messages]
    spans, start, learned = [], None, True
    for marker, position in _markers(render_marked(_mark(messages, ignored))):
        if marker == GENERATION_START:
            start, learned = position, True
        elif marker == GENERATION_END and start is not None:
            spans += [(start, position)] if learned else []
            start = None
        elif marker in (SPAN_START, SPAN_END):
            learned = False
    return spans


def turn_spans(
    render: Render,
    messages: Sequence[Message],
    text: str,
    special_tokens: re.Pattern[str],
    generation_prompt: str,
) -> list[Span]:
    """The assistant's turns in `text`, which a template without generation blocks renders.

    Args:
        messages: the conversation, with `BREAK` where it must not form special tokens.
        text: of `messages`, without markers.
        special_tokens: matches the special tokens, one of which ends a turn.
        generation_prompt: what the template appends before the assistant's turn, if anything.
    """
    learned = [is_learned(message) for message in messages]
    numbers = [number for number, by_model in enumerate(learned) if by_model]
    marked = render(_mark(messages, learned), False)
    found = _text_spans(marked)
    turns = _Turns(render, messages, text)
    if len(found) != len(numbers) or not text.startswith(MARKERS.sub("", marked)):
        return [span for span in map(turns.span, numbers) if span is not None]
    spans: list[Span] = []
    for number, (start, stop) in zip(numbers, found, strict=True):
        before = spans[-1][1] if spans else 0
        header = text.rfind(generation_prompt, before, stop if start is None else start)
        if generation_prompt and header >= 0:
            begin = header + len(generation_prompt)
        else:
            begin = turns.start(number) or (stop if start is None else start)
        end = special_tokens.match(text, len(text) - len(text[stop:].lstrip()))
        spans.append((begin, end.end() if end else turns.stop(number) or stop))
    return spans


class _Turns:
    """Where turns begin and end, by rendering the conversation up to there."""

    def __init__(self, render: Render, messages: Sequence[Message], text: str):
        self._render, self._messages, self._text = render, messages, text

    def start(self, number: int) -> int | None:
        """Where the assistant begins to generate message `number`; None if that is unknown."""
        return self._length(number, add_generation_prompt=True)

    def stop(self, number: int) -> int | None:
        """Where message `number` ends, without white space after it; None if that is unknown."""
        return self._length(number + 1, add_generation_prompt=False)

    def span(self, number: int) -> Span | None:
        start, stop = self.start(number), self.stop(number)
        return None if start is None or stop is None else (start, stop)

    def _length(self, count: int, add_generation_prompt: bool) -> int | None:
        """The length of the first `count` messages, if `text` begins with them."""
        try:
            text = self._render(self._messages[:count], add_generation_prompt)
        except UsageError:  # such as a conversation without messages
            return None
        text = MARKERS.sub("", text)
        if not add_generation_prompt:
            text = text.rstrip()
        return len(text) if self._text.startswith(text) else None


def _mark(messages: Sequence[Message], chosen: Sequence[bool]) -> list[Message]:
    """`messages` with markers around the text of those chosen."""
    marked = []
    for message, mark in zip(messages, chosen, strict=True):
        core = message["content"].strip()
        if mark and core:
            content = message["content"].replace(core, f"{SPAN_START}{core}{SPAN_END}", 1)
            message = {**message, "content": content}
        marked.append(message)
    return marked


def _markers(marked: str) -> list[tuple[str, int]]:
    """The markers in a text, each with its place in the text without them."""
    found = MARKERS.finditer(marked)
    return [(marker[0], marker.start() - before) for before, marker in enumerate(found)]


def _text_spans(marked: str) -> list[tuple[int | None, int]]:
    """Between which places the marked texts are; a template may have removed a beginning."""
    spans, start = [], None
    for marker, position in _markers(marked):
        if marker == SPAN_START:
            start = position
        elif marker == SPAN_END:
            spans.append((start, position))
            start = None
    return spans
