"""Prompts about the small world, and the reward that judges replies to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kgpt.data.tinyworld.questions import questions, says
from kgpt.files import os_errors_as_kgpt


def prompts(count: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """Rows with a different question each, about combinations that are not held out.

    `key` and `rivals` are what the judge looks for in a reply: see `Question`. There is no answer
    to learn from.
    """
    seen: set[str] = set()
    for question in questions(seed):
        if len(seen) == count:
            return
        if question.text not in seen:
            seen.add(question.text)
            prompt = [{"role": "user", "content": question.text}]
            yield {"prompt": prompt, "key": question.key, "rivals": sorted(question.rivals)}


def write_prompts(file: Path, count: int, seed: int = 1) -> None:
    """Write `prompts` as JSON lines."""
    with os_errors_as_kgpt(f"write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row) + "\n" for row in prompts(count, seed))
        file.write_text("".join(lines), encoding="utf-8")


def reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    key: Sequence[str],
    rivals: Sequence[Sequence[str]],
) -> list[float]:
    """1 for each reply that says the key and none of its rivals, else 0.

    >>> reply = [[{"role": "assistant", "content": "Ben has a red hat."}]]
    >>> reward([...], reply, ["red"], [["blue"]]), reward([...], reply, ["hat"], [["red"]])
    ([1.0], [0.0])
    """
    replies = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    judged = zip(replies, key, rivals, strict=True)
    return [float(says(reply, word, others)) for reply, word, others in judged]
