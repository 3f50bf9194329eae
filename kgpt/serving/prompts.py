"""Prompts in a request body, as in the OpenAI API: texts or token ids, one or several."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

MAX_PROMPTS = 64

TokenIds = list[Annotated[int, Field(ge=0)]]


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and i >= 0 for i in value)


def _check(value: Any) -> Any:
    """Checked before the union, which would report every item for every alternative."""
    if isinstance(value, str) or _are_token_ids(value):
        return value
    if isinstance(value, list) and len(value) > MAX_PROMPTS:
        raise ValueError(f"there are {len(value)} prompts; send at most {MAX_PROMPTS} at once")
    items = value if isinstance(value, list) else [None]
    are_texts = all(isinstance(item, str) for item in items)
    if items and (are_texts or all(map(_are_token_ids, items))):
        return value
    raise ValueError("it must be a text, a list of texts, or token ids")


Prompts = Annotated[str | TokenIds | list[str] | list[TokenIds], BeforeValidator(_check)]


def as_list(prompts: str | list[Any]) -> list[str | list[int]]:
    """The prompts as a list, each a text or token ids.

    >>> as_list("one"), as_list([1, 2]), as_list([[1], [2]])
    (['one'], [[1, 2]], [[1], [2]])
    """
    is_one = isinstance(prompts, str) or isinstance(prompts[0], int)
    return [prompts] if is_one else list(prompts)
