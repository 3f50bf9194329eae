"""What happens when a text outgrows the model's context: one rule for tokens, one for chats."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from kgpt.text.chat_template import Chat


def tokens_kept(context: int, rolling_cache: bool) -> int:
    """How many of the newest tokens are prefilled again when a sequence outgrows the context.

    Rotary models keep the whole context, since their cache is a ring buffer. Models with absolute
    positions, or with a prefix, keep half of it, so that there is room to go on.
    """
    return context if rolling_cache else max(1, context // 2)


def longest_prompt(max_context: int, max_tokens: int) -> int:
    """Tokens of the longest prompt that leaves room for `max_tokens`, up to half of the context."""
    return max_context - max(1, min(max_tokens, max_context // 2))


def encode_chat(
    chat_template: Chat,
    messages: Sequence[Mapping[str, Any]],
    max_tokens: int,
    unfinished: bool = False,
    **template: Any,
) -> tuple[list[int], int]:
    """The prompt ids of a chat in at most `max_tokens`, and how many messages were left out.

    The oldest turns are left out whole, up to the next message of the user. The system message and
    the newest turn are kept; so is the whole of the last message, unless it is an answer to go on
    with (`unfinished`), which loses its beginning where it alone exceeds `max_tokens`.
    `template` is passed to `Chat.encode`: its `tools` and `variables`.
    """
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = list(messages[len(system) :])

    def encode(first: int) -> list[int]:
        prompt = system + turns[first:]
        return chat_template.encode(prompt, not unfinished, unfinished, **template)[0]

    ids = encode(0)
    starts = [i for i in range(1, len(turns)) if turns[i]["role"] == "user"]
    if len(ids) <= max_tokens or not (starts or unfinished):
        return ids, 0
    found = bisect_left(starts, True, key=lambda first: len(encode(first)) <= max_tokens)
    first = starts[min(found, len(starts) - 1)] if starts else 0
    ids = encode(first)
    if unfinished and len(ids) > max_tokens:
        first = len(turns) - 1
        head = chat_template.encode(system, **template)[0] if system else []
        ids = head + encode(first)[len(head) :][-(max_tokens - len(head)) :]
    return ids, first
