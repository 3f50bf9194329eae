"""How rich the vocabulary of a text is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MTLD_THRESHOLD = 0.72


def type_token_ratio(words: Sequence[str]) -> float:
    """Different words per word. It falls with length: compare texts of one length. 0 if empty.

    >>> type_token_ratio("the cat saw the dog".split())
    0.8
    """
    return len(set(words)) / len(words) if words else 0.0


def mtld(words: Sequence[str]) -> float:
    """Measure of textual lexical diversity: the mean length of runs whose type-token ratio stays
    above 0.72, of both reading directions. It does not depend on the text's length.

    A text whose ratio stays at 1 has the number of its words; an empty one 0.

    Source: McCarthy and Jarvis 2010, "MTLD, vocd-D, and HD-D".

    >>> mtld("a a b b c c".split())  # three runs of two words, forwards and backwards
    2.0
    """
    return (_mtld(words, len(words)) + _mtld(reversed(words), len(words))) / 2


def _mtld(words: Iterable[str], count: int) -> float:
    """One direction: words per factor, the last factor counted by how far its ratio has fallen."""
    factors, types, length = 0.0, set[str](), 0
    for word in words:
        types.add(word)
        length += 1
        if len(types) / length < MTLD_THRESHOLD:
            factors, types, length = factors + 1, set(), 0
    if length:
        factors += (1 - len(types) / length) / (1 - MTLD_THRESHOLD)
    return count / factors if factors else float(count)
