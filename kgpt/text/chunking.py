"""Long texts in pieces that encode as the whole would."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

SIZE = 1 << 16
LONGEST = 1 << 22
# Between a letter or digit and what follows here, every byte-level BPE in use begins a new word:
# the patterns of GPT-2, Llama 3, Qwen and o200k all end a run of letters or digits there.
BOUNDARY = re.compile(r"[^\W_](?=[ \t\n.,;:!?，。、！？])")


def chunk_text(text: Iterable[str], size: int = SIZE, longest: int = LONGEST) -> Iterator[str]:
    """Cut a stream of text, given in parts, into pieces of about `size` characters.

    The cut falls where BPE has a boundary whatever stands around it, so the pieces' ids join to the
    ids of the whole. Text that has no such place for `longest` characters is cut there all the
    same: memory stays bounded.
    """
    held: list[str] = []
    length, enough, searched = 0, size, size
    for part in text:
        held.append(part)
        length += len(part)
        if length <= enough:
            continue
        joined, begin = "".join(held), 0
        while (end := _cut(joined, begin, max(searched, begin + size), longest)) > 0:
            yield joined[begin:end]
            begin = end
        held, length = [joined[begin:]], len(joined) - begin
        # What was searched in vain is not searched, nor joined, again for every part.
        searched, enough = length, max(size, 2 * length)
    if length:
        yield from _rest("".join(held), size, longest)


def _cut(text: str, begin: int, searched: int, longest: int) -> int:
    """Where the piece from `begin` on ends; -1 if that is not known yet."""
    found = BOUNDARY.search(text, max(begin, searched - 1))
    end = found.end() if found else -1
    if end < 0 or end - begin > longest:
        return begin + longest if len(text) - begin > longest else -1
    return end


def _rest(text: str, size: int, longest: int) -> Iterator[str]:
    """The last pieces of a stream that has ended."""
    begin = 0
    while len(text) - begin > size:
        end = _cut(text, begin, begin + size, longest)
        if end < 0:
            break
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:]
