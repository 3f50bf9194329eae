"""The token sequences of words that are never generated."""

from __future__ import annotations

from collections.abc import Sequence

from kgpt.text.tokenizer import Tokenizer


class BadWords:
    """Encodes bad words, each once: alone, after a space, capitalised."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._known: dict[str, list[list[int]]] = {}

    def ids(self, words: Sequence[str]) -> list[list[int]]:
        """The token sequences of every form of `words`."""
        return [form for word in words for form in self._forms(word)]

    def _forms(self, word: str) -> list[list[int]]:
        if word not in self._known:
            forms = {word, word.lower(), word.capitalize()}
            forms |= {f" {form}" for form in forms}
            ids = {tuple(form) for form in self._tokenizer.encode_batch(sorted(forms))}
            self._known[word] = [list(form) for form in sorted(ids) if form]
        return self._known[word]
