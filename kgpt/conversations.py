"""Conversations as other software writes them, read into one form. No Keras here.

A message is {"role": "system" | "user" | "assistant", "content": text}, and `"weight": 0` where an
assistant's message is not to be learned. A row of a data set is a conversation if it has

    messages                       OpenAI, transformers: role and content, text or content parts
    conversations                  ShareGPT: from and value
    instruction, input, output     Alpaca; Dolly says context and response
    prompt, completion             a question and its answer; so are question and answer

`prompt` and `completion` are texts or lists of messages. A cell of a .csv file has a list as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant",
}  # fmt: skip
LISTS = {"messages": "messages", "conversations": "ShareGPT", "conversation": "messages"}
INPUTS, OUTPUTS = ("input", "context"), ("output", "response")
QUESTIONS, ANSWERS = ("prompt", "question"), ("completion", "response", "answer")
FIELDS = {  # of each format of rows, those that are read
    "messages": ("messages", "conversation"),
    "ShareGPT": ("conversations",),
    "Alpaca": ("instruction", *INPUTS, *OUTPUTS, "system"),
    "prompt and completion": (*QUESTIONS, *ANSWERS, "system"),
}


def messages_of_row(row: Mapping[str, Any]) -> tuple[str, list[Message]] | None:
    """The format of a row and its conversation; None if the row is no conversation.

    Raises:
        ValueError: the row is a conversation with an unknown role or without text.
    """
    for name, kind in LISTS.items():
        if row.get(name) is not None:
            return kind, parse_messages(row[name])
    output, question, answer = (_first(row, names) for names in (OUTPUTS, QUESTIONS, ANSWERS))
    if row.get("instruction") is not None and output is not None:
        texts = text_of(row["instruction"]), text_of(_first(row, INPUTS))
        return "Alpaca", _with_system(row, "\n\n".join(filter(None, texts)), output)
    if question is not None and answer is not None:
        return "prompt and completion", _with_system(row, question, answer)
    return None


def trainable_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages of a conversation to learn from, without empty system prompts.

    Raises:
        ValueError: a turn is empty, or there is none of the assistant to learn; the text says why.
    """
    kept = [m for m in messages if m["role"] != "system" or m["content"].strip()]
    for message in kept:
        if not message["content"].strip():
            raise ValueError(
                f"message {messages.index(message) + 1}, of {message['role']}, is empty"
            )
    if not any(is_learned(message) for message in kept):
        raise ValueError("there is no message of the assistant to learn from")
    return kept


def is_learned(message: Message) -> bool:
    """True if the model generates the message and learns to."""
    return bool(message["role"] == "assistant" and message.get("weight") != 0)


def renamed_roles(row: Mapping[str, Any]) -> dict[str, str]:
    """The roles in a row's messages that are read as others.

    >>> renamed_roles({"conversations": [{"from": "human"}, {"from": "system"}]})
    {'human': 'user'}
    """
    items = _as_list(_first(row, tuple(LISTS)))
    items = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    roles = [_first(item, ("role", "from")) for item in items]
    return {r: ROLES[r] for r in roles if isinstance(r, str) and ROLES.get(r, r) != r}


def parse_messages(value: Any) -> list[Message]:
    """A list of messages, in OpenAI's or ShareGPT's form.

    >>> parse_messages([{"from": "human", "value": "Hi"}])
    [{'role': 'user', 'content': 'Hi'}]

    Raises:
        ValueError: `value` is no such list; the text says why.
    """
    value = _as_list(value)
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
    role = _first(item, ("role", "from"))
    if not isinstance(role, str) or not ("content" in item or "value" in item):
        raise ValueError('messages must be a list of {"role": ..., "content": ...}')
    if role not in ROLES:
        raise ValueError(f"the role {role!r} is unknown; roles are system, user and assistant")
    message = {"role": ROLES[role], "content": text_of(_first(item, ("content", "value")))}
    if item.get("tool_calls") or item.get("function_call"):
        raise ValueError("a message has tool calls, which training does not support")
    weight = item.get("weight")
    if weight not in (None, 0, 1):
        raise ValueError(f"the weight of a message is 0 or 1, not {weight!r}")
    return message if weight is None else message | {"weight": int(weight)}


def _with_system(row: Mapping[str, Any], question: Any, answer: Any) -> list[Message]:
    """A conversation of one question and its answer, after the row's system prompt, if any."""
    system = [{"role": "system", "content": text_of(row["system"])}] if row.get("system") else []
    return [*system, *_turns("user", question), *_turns("assistant", answer)]


def _turns(role: str, content: Any) -> list[Message]:
    """A text as a message of `role`; a list of messages as they are."""
    if isinstance(content, list) and any(
        isinstance(one, dict) and "role" in one for one in content
    ):
        return parse_messages(content)
    return [{"role": role, "content": text_of(content)}]


def _first(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of some fields that a row has; None without one."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _as_list(value: Any) -> Any:
    """`value`; the list in it if it is a text with a JSON list, as in a cell of a .csv file."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
