"""Which tokens a text can have that begins where a token begins: `TokenSequences`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

Ids = tuple[int, ...]


class TokenSequences:
    """The sequences of tokens whose bytes begin with a text.

    The last token may reach beyond it: "imprisonment" begins with "impri", "imp" and "ris" do.

    Args:
        token_bytes: the bytes of each token of a vocabulary; None of special ones.
    """

    def __init__(self, token_bytes: list[bytes | None]):
        pairs = sorted((text, token) for token, text in enumerate(token_bytes) if text)
        self._texts = [text for text, _ in pairs]
        self._ids = [token for _, token in pairs]

    def of(self, text: bytes, exists: Callable[[Ids], bool]) -> Iterator[Ids]:
        """The sequences that begin with `text`, each with the fewest tokens.

        Args:
            exists: whether a sequence stands in the data set; if not, none that begins with it is
                looked for.
        """
        pending: list[tuple[Ids, int]] = [((), 0)]  # a sequence, and the bytes of `text` it has
        while pending:
            ids, size = pending.pop()
            for token, length in self._next(text[size:]):
                longer = (*ids, token)
                if not exists(longer):
                    continue
                if size + length >= len(text):
                    yield longer
                else:
                    pending.append((longer, size + length))

    def _next(self, text: bytes) -> Iterator[tuple[int, int]]:
        """Each token that agrees with `text` as far as both go, and its number of bytes."""
        for end in range(1, len(text)):
            yield from self._range(text[:end], bisect_left(self._texts, text[:end] + b"\0"))
        yield from self._range(text, bisect_left(self._texts, text + b"\xff" * 8))

    def _range(self, first: bytes, end: int) -> Iterator[tuple[int, int]]:
        """The tokens from that of the bytes `first` up to number `end`, by their bytes."""
        for number in range(bisect_left(self._texts, first), end):
            yield self._ids[number], len(self._texts[number])
