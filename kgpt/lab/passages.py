"""Where a text stands in a data set, however it is tokenized there.

The same text has other tokens at its ends in other places: " the cat" within a sentence, or the end
of a longer word. So only its inner words are searched for as tokens; the rest is compared as text.
Of a text without an inner word, all tokens that it can have are searched for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kgpt.data.suffix_array import SuffixArray
from kgpt.lab.token_sequences import TokenSequences
from kgpt.text.tokenizer import Tokenizer

WORD_END = re.compile(r"\S(?=\s)")
MAX_CANDIDATES = 100_000  # places compared as text
NO_TEXT = b"\xff"  # in place of a special token: no UTF-8 text has this byte


@dataclass(frozen=True)
class Place:
    """Tokens [token, token + tokens) of a split, in which a text stands."""

    split: str
    token: int
    tokens: int


@dataclass(frozen=True)
class Places:
    """Where a text stands: how often, and the first places of each split."""

    count: int
    first: list[Place]


class TextSearch:
    """Finds texts in the splits of a data set.

    Args:
        arrays: the suffix array of each split.
        tokenizer: of the data set.
    """

    def __init__(self, arrays: dict[str, SuffixArray], tokenizer: Tokenizer):
        self.arrays, self.tokenizer = arrays, tokenizer
        texts = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
        self._has_words = any(len((text or b"").decode("utf-8", "replace")) > 1 for text in texts)
        self._sequences = TokenSequences(texts)

    def find(self, text: str, limit: int) -> Places:
        """The places of `text`; not those within a token if it has no space between two words.

        Args:
            limit: how many places of each split to return.
        """
        count, first = 0, []
        core = self._core(text)
        for split, array in self.arrays.items():
            cores = [core] if core.ids.size else list(self._short_cores(text, core, array))
            most = MAX_CANDIDATES if core.before or core.after else np.inf
            if cores and sum(array.count(one.ids) for one in cores) > most:
                found_count, found = _by_ids(self.variants(text), array, limit)
            else:
                each = [_by_core(one, self.tokenizer, array, limit) for one in cores]
                found_count = sum(number for number, _ in each)
                found = sorted(place for _, places in each for place in places)[:limit]
            count += found_count
            first += [Place(split, token, tokens) for token, tokens in found]
        return Places(count, first)

    def _short_cores(self, text: str, core: _Core, array: SuffixArray) -> Iterator[_Core]:
        """What a text without an inner word can have as tokens where it stands in a split.

        They are those after the space between its two words, or of all of it, where its first token
        may also begin with a space.
        """
        encoded = text.encode("utf-8", "replace")
        exists = lambda ids: array.count(np.array(ids, np.int64)) > 0  # noqa: E731
        for ids in self._sequences.of(core.after if core.before else encoded, exists):
            yield _Core(np.array(ids, np.int64), core.before, b"")
        if not core.before and not text[:1].isspace():
            for ids in self._sequences.of(b" " + encoded, exists):
                if len(_bytes(ids[:1], self.tokenizer)) > 1:  # else it was found without the space
                    yield _Core(np.array(ids, np.int64), b"", b"")

    def variants(self, text: str) -> list[np.ndarray]:
        """The tokens of `text` at the beginning of a document, and after a space."""
        texts = [text] if text[:1].isspace() else [text, f" {text}"]
        several = {tuple(ids): None for ids in self.tokenizer.encode_batch(texts)}
        return [np.array(ids, np.int64) for ids in several]

    def _core(self, text: str) -> _Core:
        """The tokens of the inner words of `text`, each with the space before it.

        Tokenizers cut a text before the space between two words, whatever is around these. One of
        characters or bytes cuts everywhere.
        """
        ids, encoded = self.tokenizer.encode(text), text.encode("utf-8", "replace")
        cuts = [0, len(text)]
        if self._has_words:
            cuts = [match.start() + 1 for match in WORD_END.finditer(text)] or [0]
        before, after = (text[: cuts[0]], text[cuts[-1] :])
        begin, end = (len(part.encode("utf-8", "replace")) for part in (before, after))
        sizes = [len(_bytes([token], self.tokenizer)) for token in ids]
        ends = np.cumsum([0, *sizes])
        first, last = np.searchsorted(ends, [ends[-1] - len(encoded) + begin, ends[-1] - end])
        core = _Core(
            np.array(ids[first:last], np.int64), encoded[:begin], encoded[len(encoded) - end :]
        )
        whole = core.before + _bytes(core.ids.tolist(), self.tokenizer) + core.after
        return core if whole == encoded else _Core(np.zeros(0, np.int64), b"", b"")


class _Core(NamedTuple):
    """The tokens that a text has wherever it stands, and the bytes of it before and after them."""

    ids: np.ndarray
    before: bytes
    after: bytes


def _by_core(
    core: _Core, tokenizer: Tokenizer, array: SuffixArray, limit: int
) -> tuple[int, list[tuple[int, int]]]:
    """How often the text of `core` stands in a split, and the first places: (token, tokens)."""
    size = len(core.ids)
    if not (core.before or core.after):
        return array.count(core.ids), [(p, size) for p in array.find(core.ids, limit).tolist()]
    positions = array.find(core.ids)
    left = _around(array, positions[:, None] - 1 - np.arange(len(core.before)))
    right = _around(array, positions[:, None] + size + np.arange(len(core.after)))
    rows, which = np.unique(np.hstack([left, right]), axis=0, return_inverse=True)
    cut = left.shape[1]
    ends = [
        (_tokens_before(row[:cut], core.before, tokenizer),
         _tokens_after(row[cut:], core.after, tokenizer))
        for row in rows.tolist()
    ]  # fmt: skip
    extents = np.array(ends, np.int64).reshape(-1, 2)[which.reshape(-1)]  # -1: other text
    match = np.flatnonzero((extents >= 0).all(axis=1))
    first = match[:limit]
    starts = positions[first] - extents[first, 0]
    sizes = extents[first].sum(axis=1) + size
    return len(match), list(zip(starts.tolist(), sizes.tolist(), strict=True))


def _by_ids(
    variants: list[np.ndarray], array: SuffixArray, limit: int
) -> tuple[int, list[tuple[int, int]]]:
    """How often one of the variants stands in a split, and the first places: (token, tokens)."""
    places = [(p, len(ids)) for ids in variants for p in array.find(ids, limit).tolist()]
    return sum(array.count(ids) for ids in variants), sorted(places)[:limit]


def _around(array: SuffixArray, positions: np.ndarray) -> np.ndarray:
    """The tokens at `positions`, -1 outside the split."""
    outside = (positions < 0) | (positions >= len(array.stream))
    return np.where(outside, -1, array.stream.take(np.where(outside, 0, positions)))


def _tokens_before(ids: Sequence[int], text: bytes, tokenizer: Tokenizer) -> int:
    """How many of `ids`, the nearest first, it takes to have `text` before them; -1: it is not."""
    found, count = b"", 0
    while len(found) < len(text):
        found, count = _bytes([ids[count]], tokenizer) + found, count + 1
        if not (found.endswith(text) or text.endswith(found)):
            return -1
    return count


def _tokens_after(ids: Sequence[int], text: bytes, tokenizer: Tokenizer) -> int:
    """How many of `ids` it takes to have `text` after them; -1: it is not."""
    found, count = b"", 0
    while len(found) < len(text):
        found, count = found + _bytes([ids[count]], tokenizer), count + 1
        if not (found.startswith(text) or text.startswith(found)):
            return -1
    return count


def _bytes(ids: Sequence[int], tokenizer: Tokenizer) -> bytes:
    return b"".join(tokenizer.token_bytes(token) or NO_TEXT for token in ids)
