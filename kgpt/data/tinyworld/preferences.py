"""Pairs of answers about the small world: a right one, and one with a wrong word in its place."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

from kgpt.data.tinyworld.questions import questions


def preferences(count: int, seed: int = 2, held_out: bool = False) -> Iterator[dict[str, Any]]:
    """Rows with a different question each, about combinations that are held out, or are not.

    >>> row = next(preferences(1))
    >>> sorted(row), row["chosen"] == row["rejected"]
    (['chosen', 'prompt', 'rejected'], False)
    """
    rng, seen = random.Random(f"preferences {seed}"), set[str]()
    for question in questions(seed, held_out):
        if len(seen) == count:
            return
        if question.text in seen or not question.rivals:
            continue
        rival = rng.choice(sorted(question.rivals))
        wrong = re.sub(rf"\b{re.escape(question.key)}\b", rival, question.answer)
        if wrong == question.answer or question.is_right(wrong):
            continue
        seen.add(question.text)
        yield {"prompt": question.text, "chosen": question.answer, "rejected": wrong}
