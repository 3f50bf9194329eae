"""The prompts of an evaluation, and the references that completions are compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kgpt.conversations import Message, parse_messages
from kgpt.errors import DataError

REFERENCES = ("references", "reference", "completion", "response", "answer")


@dataclass(frozen=True)
class Prompt:
    """What a model continues.

    Attributes:
        text: of a prompt, or of a conversation's last message.
        messages: of a conversation, up to the answer; None of a text.
        references: good answers, if there are any.
    """

    text: str
    messages: Sequence[Message] | None = None
    references: Sequence[str] = ()


def read_prompts(file: str, limit: int | None = None) -> list[Prompt]:
    """The prompts of a file, the first `limit` of them.

    Raises:
        DataError: the file cannot be read, has no prompts, or has references for some only.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.") from None
    prompts = list(islice(_prompts(text, file), limit))
    if not prompts:
        raise DataError(f"{file} has no prompts.")
    if len({bool(prompt.references) for prompt in prompts}) > 1:
        raise DataError(f"{file} has references for some prompts only; give one for each, or none.")
    return prompts


def _prompts(text: str, file: str) -> Iterator[Prompt]:
    is_jsonl = Path(file).suffix.lower() in (".jsonl", ".json")
    for number, line in enumerate(text.split("\n"), 1):  # a JSON string may hold U+2028
        if not line.strip():
            continue
        if not is_jsonl:
            yield Prompt(line.removesuffix("\r"))
            continue
        try:
            yield _of_row(json.loads(line))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            raise DataError(
                f"Line {number} of {file} is not a JSON object with a prompt or messages."
            ) from None


def _of_row(row: Mapping[str, Any]) -> Prompt:
    given: Any = next((row[name] for name in REFERENCES if row.get(name) is not None), [])
    references = [given] if isinstance(given, str) else [str(text) for text in given]
    given = row["messages"] if "messages" in row else row["prompt"]
    if isinstance(given, str):
        return Prompt(given, None, references)
    messages = parse_messages(given)
    if messages[-1]["role"] == "assistant":  # the answer
        references = references or [messages[-1]["content"]]
        messages = messages[:-1]
    return Prompt(messages[-1]["content"], messages, references)
