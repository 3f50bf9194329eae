"""Prompts as token ids."""

from __future__ import annotations

from collections.abc import Sequence

from kgpt.errors import UsageError
from kgpt.text.tokenizer import Tokenizer

Prompt = str | Sequence[int]


def prompt_ids(tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    """Token ids of a prompt, given as text or as ids; an empty one begins a new document."""
    if isinstance(prompt, str):
        ids = tokenizer.encode_prompt(prompt)
    else:
        ids = [int(token) for token in prompt]
    return ids or [tokenizer.eos_id or 0]


def all_prompt_ids(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
    """`prompt_ids` of each; a `UsageError` for one text in place of a list."""
    if isinstance(prompts, str):
        raise UsageError("Give a list of texts, not one text.")
    return [prompt_ids(tokenizer, prompt) for prompt in prompts]
