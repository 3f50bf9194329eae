"""Whether a text is one of its references."""

from __future__ import annotations

from collections.abc import Sequence


def exact_match(text: str, references: Sequence[str]) -> float:
    """1 if the text equals a reference but for whitespace at its ends, else 0.

    >>> exact_match(" Paris\\n", ["Paris", "the city of Paris"]), exact_match("paris", ["Paris"])
    (1.0, 0.0)
    """
    return float(text.strip() in {reference.strip() for reference in references})
