"""Sorting the suffixes of a block of tokens, in NumPy: prefix doubling with 64-bit integer sorts.

Suffixes are sorted by their first tokens; those still equal by the ranks of what follows, which
doubles the number of tokens compared each time (Manber & Myers, 1990), with ranks refined in place
(Larsson & Sadakane, 2007). Each sort is of integers that hold group, rank and position, since NumPy
sorts integers an order of magnitude faster than it finds the order of others.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

POSITION_BITS = 24
MAX_TOKENS = (1 << POSITION_BITS) - 1
CHUNK = 1 << 20  # suffixes sorted at a time; group and place of one then fit beside its rank


def sort_suffixes(tokens: np.ndarray, vocab_size: int, depth: int) -> np.ndarray:
    """The order of all suffixes by their first `depth` tokens; the end is below every token.

    Args:
        tokens: (N,) unsigned ids below `vocab_size`, at most `MAX_TOKENS` of them.
        depth: the order of suffixes that agree in so many tokens is not specified.

    Returns:
        (N,) uint32 positions in `tokens`. Peak memory is about 25 bytes a token.
    """
    order, first, compared = _sort_by_key(tokens, vocab_size)
    rank = np.empty(len(tokens), np.uint32)
    _set_ranks(rank, order, first)
    while compared < depth and not first.all():
        for begin, end in _chunks(first):
            _refine(order[begin:end], first[begin : end + 1], rank, begin, compared)
        compared *= 2
    return order


def _sort_by_key(tokens: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The order by as many tokens as fit into a key beside the position.

    Returns:
        (N,) uint32 positions; (N + 1,) bool whether a suffix differs from the one before it, True
        at the end; and how many tokens were compared.
    """
    total, bits = len(tokens), vocab_size.bit_length()
    compared = max(1, (64 - POSITION_BITS) // bits)
    keys = np.zeros(total, np.uint64)
    for i in range(compared):
        keys <<= np.uint64(bits)
        inside = keys[: max(0, total - i)]
        inside += tokens[i:]
        inside += np.uint64(1)  # the end is 0
    keys <<= np.uint64(POSITION_BITS)
    keys |= np.arange(total, dtype=np.uint64)
    keys.sort()
    order = (keys & np.uint64(MAX_TOKENS)).astype(np.uint32)
    keys >>= np.uint64(POSITION_BITS)
    first = np.ones(total + 1, bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:total])
    return order, first, compared


def _set_ranks(rank: np.ndarray, order: np.ndarray, first: np.ndarray) -> None:
    """Set the rank of each suffix: where its group of equal ones begins in the order."""
    begins = np.arange(len(order), dtype=np.uint32)
    begins[~first[:-1]] = 0
    rank[order] = np.maximum.accumulate(begins)


def _chunks(first: np.ndarray) -> Iterator[tuple[int, int]]:
    """Ranges of the order of at most `CHUNK` suffixes, or one group that is larger."""
    begin, total = 0, len(first) - 1
    while begin < total:
        groups = first[begin + 1 : begin + 1 + CHUNK]
        if groups.any():
            end = begin + len(groups) - int(groups[::-1].argmax())
        else:
            end = begin + 1 + int(first[begin + 1 :].argmax())
        yield begin, end
        begin = end


def _refine(
    order: np.ndarray, first: np.ndarray, rank: np.ndarray, begin: int, compared: int
) -> None:
    """Sort the groups of a chunk by the rank of what follows the tokens compared so far.

    Args:
        order: (M,) the chunk, changed in place.
        first: (M + 1,) whether a suffix begins a group, changed in place.
        rank: (N,) of all suffixes, changed in place.
        begin: where the chunk begins in the whole order.
    """
    places = np.flatnonzero(~(first[:-1] & first[1:]))
    if not len(places):
        return
    suffixes = order[places]
    following = suffixes + np.uint32(compared)
    ranks = rank[np.minimum(following, len(rank) - 1)] + np.uint32(1)
    ranks[following >= len(rank)] = 0
    bits = np.uint64(len(places).bit_length())
    keys = (np.cumsum(first[places]) - 1).astype(np.uint64)  # the number of the group
    keys <<= np.uint64(POSITION_BITS)
    keys |= ranks
    keys <<= bits
    keys |= np.arange(len(places), dtype=np.uint64)
    keys.sort()
    suffixes = suffixes[(keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)]
    keys >>= bits
    differs = np.ones(len(places), bool)
    np.not_equal(keys[1:], keys[:-1], out=differs[1:])
    order[places], first[places] = suffixes, differs
    rank[suffixes] = np.maximum.accumulate(np.where(differs, places + begin, 0))
