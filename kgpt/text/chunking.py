"""Cut long texts into chunks whose token ids join to those of the whole text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# A letter or digit followed by one of these: the pre-tokenizers of GPT-2, Llama 3, Qwen and o200k
# all split there, so that no BPE merge crosses it.
BOUNDARY = re.compile(r"[^\W_](?=[ \t\n.,;:!?，。、！？])")


def chunk_text(text: Iterable[str], size: int = 1 << 16, max_size: int = 1 << 22) -> Iterator[str]:
    """Cut a stream of text, given in parts, into chunks of about `size` characters.

    Cuts fall on word boundaries of the pre-tokenizer, so the ids of the chunks join to the ids of
    the whole text. Text without a boundary is cut after `max_size` characters: memory is bounded.
    """
    buffer: list[str] = []
    length, enough, searched = 0, size, size
    for part in text:
        buffer.append(part)
        length += len(part)
        if length <= enough:
            continue
        joined, begin = "".join(buffer), 0
        while (end := _cut(joined, begin, max(searched, begin + size), max_size)) > 0:
            yield joined[begin:end]
            begin = end
        buffer, length = [joined[begin:]], len(joined) - begin
        # Text without a boundary is not searched or joined again for every part.
        searched, enough = length, max(size, 2 * length)
    if length:
        yield from _rest("".join(buffer), size, max_size)


def _cut(text: str, begin: int, searched: int, max_size: int) -> int:
    """End of the chunk that starts at `begin`; -1 if more text is needed to know it."""
    found = BOUNDARY.search(text, max(begin, searched - 1))
    end = found.end() if found else -1
    if end < 0 or end - begin > max_size:
        return begin + max_size if len(text) - begin > max_size else -1
    return end


def _rest(text: str, size: int, max_size: int) -> Iterator[str]:
    """The last chunks, after the stream has ended."""
    begin = 0
    while len(text) - begin > size:
        end = _cut(text, begin, begin + size, max_size)
        if end < 0:
            break
        yield text[begin:end]
        begin = end
    if begin < len(text):
        yield text[begin:]
