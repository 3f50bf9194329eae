"""Conversations as other software writes them, read into one form. No Keras here.

A message is {"role": "system" | "user" | "assistant", "content": text}, and `"weight": 0` where an
assistant's message is not to be learned. A row of a data set is a conversation if it has

    messages                       OpenAI, transformers: role and content, text or content parts
    conversations                  ShareGPT: from and value
    instruction, input, output     Alpaca
    prompt, completion             a question and its answer; `response` is the same
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
ANSWERS = ("completion", "response")
FIELDS = {  # of each format of rows, those that are read
    "messages": ("messages",),
    "ShareGPT": ("conversations",),
    "Alpaca": ("instruction", "input", "output", "system"),
    "prompt and completion": ("prompt", *ANSWERS, "system"),
}


def messages_of_row(row: Mapping[str, Any]) -> tuple[str, list[Message]] | None:
    """The format of a row and its conversation; None if the row is no conversation.

    Raises:
        ValueError: the row is a conversation with an unknown role or without text.
    """
    for name, kind in (("messages", "messages"), ("conversations", "ShareGPT")):
        if row.get(name) is not None:
            return kind, parse_messages(row[name])
    answer = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if row.get("instruction") is not None and row.get("output") is not None:
        question = "\n\n".join(
            filter(None, (text_of(row["instruction"]), text_of(row.get("input"))))
        )
        return "Alpaca", _with_system(row, question, row["output"])
    if row.get("prompt") is not None and answer is not None:
        return "prompt and completion", _with_system(row, row["prompt"], answer)
    return None


def renamed_roles(row: Mapping[str, Any]) -> dict[str, str]:
    """The roles in a row's messages that are read as others.

    >>> renamed_roles({"conversations": [{"from": "human"}, {"from": "system"}]})
    {'human': 'user'}
    """
    items = next((row[name] for name in ("messages", "conversations") if row.get(name)), None)
    items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    roles = [item.get("role", item.get("from")) for item in items]
    return {r: ROLES[r] for r in roles if isinstance(r, str) and ROLES.get(r, r) != r}


def parse_messages(value: Any) -> list[Message]:
    """A list of messages, in OpenAI's or ShareGPT's form.

    >>> parse_messages([{"from": "human", "value": "Hi"}])
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        ValueError: `value` is no such list; the text says why.
    """
    if not isinstance(value, list) or not value:
        raise ValueError('messages must be a list of {"role": ..., "content": ...}')
    return [_message(item) for item in value]


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of text parts, or None, which is empty.

    Raises:
        ValueError: the content is something else, such as an image.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_text_of_part(part) for part in content)
    raise ValueError(f"the content of a message is text, not {type(content).__name__}")


def _text_of_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise ValueError(f"a content part of the type {kind!r} is not supported, only text is")


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise ValueError('messages must be a list of {"role": ..., "content": ...}')
    role = item.get("role", item.get("from"))
    if not isinstance(role, str) or not ("content" in item or "value" in item):
        raise ValueError('messages must be a list of {"role": ..., "content": ...}')
    if role not in ROLES:
        raise ValueError(f"the role {role!r} is unknown; roles are system, user and assistant")
    message = {"role": ROLES[role], "content": text_of(item.get("content", item.get("value")))}
    if item.get("tool_calls") or item.get("function_call"):
        raise ValueError("a message has tool calls, which training does not support")
    weight = item.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"the weight of a message is 0 or 1, not {weight!r}")
    return message if weight is None else message | {"weight": int(weight)}


def _with_system(row: Mapping[str, Any], question: Any, answer: Any) -> list[Message]:
    """A conversation of one question and its answer, after the row's system prompt, if any."""
    if isinstance(question, list) and isinstance(answer, list):
        return parse_messages(question + answer)
    system = [{"role": "system", "content": text_of(row["system"])}] if row.get("system") else []
    return [
        *system,
        {"role": "user", "content": text_of(question)},
        {"role": "assistant", "content": text_of(answer)},
    ]
