"""The tokenizer of an export against that of the model: vocabulary, merges, special tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kgpt.text.tokenizer import Tokenizer


def tokenizer_faults(ours: Tokenizer, theirs: Tokenizer) -> list[str]:
    """Sentences on the first merge, token and special token of `theirs` that differ from `ours`."""
    expected, found = (json.loads(tokenizer.to_json())["model"] for tokenizer in (ours, theirs))
    faults = [
        merge_fault(found.get("merges") or [], expected.get("merges") or []),
        _vocabulary_fault(found.get("vocab") or {}, expected.get("vocab") or {}),
    ]
    if ours.special_by_id != theirs.special_by_id:
        faults.append(f"the special tokens are {theirs.special_by_id}, not {ours.special_by_id}")
    return [fault for fault in faults if fault is not None]


def merge_fault(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """A sentence on the first merge that differs; None if all are equal."""
    ours, theirs = ([_pair(merge) for merge in merges] for merges in (expected, found))
    for index, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return f"merge {index} of the tokenizer is {b!r}, not {a!r}"
    if len(ours) != len(theirs):
        return f"the tokenizer has {len(theirs)} merges, not {len(ours)}"
    return None


def _pair(merge: str | Sequence[str]) -> str:
    return merge if isinstance(merge, str) else " ".join(merge)


def _vocabulary_fault(found: Any, expected: Any) -> str | None:
    if not isinstance(found, Mapping) or not isinstance(expected, Mapping):  # Unigram's is a list
        return None if found == expected else "the vocabulary of the tokenizer differs"
    for token, token_id in expected.items():
        if found.get(token) != token_id:
            return f"the token {token!r} has the id {found.get(token)}, not {token_id}"
    return None if len(found) == len(expected) else f"the tokenizer has {len(found)} tokens"
