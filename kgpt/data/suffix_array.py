"""A suffix array of each split of a data set: where tokens stand in it, in milliseconds.

It is built once, out of core: each block of a split has a suffix array of its own, in which
suffixes are compared beyond the end of the block. A search asks all blocks at once. On disk, beside
the data set, in the folder `suffix_array`:

index.json  which data set it belongs to
train.sa    for each block of the split its positions in order, 4 bytes a token: uint32
val.sa
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kgpt.data.shards import TokenDataset, TokenStream
from kgpt.data.suffix_sort import MAX_TOKENS, sort_suffixes
from kgpt.files import atomic_dir, os_errors_as_kgpt, write_json

FORMAT = 1
DEPTH = 64  # tokens by which suffixes are sorted; a search compares the rest one by one
BLOCK_TOKENS = MAX_TOKENS - DEPTH
COLUMNS = 16  # tokens compared at a time
MAX_THREADS = 2  # each needs about 450 MB
PAST_END = -1  # in place of a token after the last
Progress = Callable[[int], None]


class Match(NamedTuple):
    """Tokens of a query that stand in a split: `length` of them, at `position`."""

    length: int
    position: int


class SuffixArray:
    """The suffix array of one split.

    Args:
        stream: the tokens of the split.
        order: (tokens,) uint32, for each block its positions in order.
        block_tokens: tokens in a block; the last may have fewer.
    """

    def __init__(self, stream: TokenStream, order: np.ndarray, block_tokens: int):
        self.stream, self.order = stream, order
        self._begins = np.arange(0, len(order), block_tokens, dtype=np.int64)
        self._sizes = np.diff(self._begins, append=len(order))
        # What is counted is mostly looked for next.
        self._ranges = functools.lru_cache(maxsize=4)(self._search)
        self._beyond_depth = functools.lru_cache(maxsize=1)(self._filter)

    def count(self, ids: np.ndarray) -> int:
        """How often `ids` (N,) stand in the split; occurrences may overlap."""
        if len(ids) <= DEPTH:
            low, high = self._ranges(tuple(ids))
            return int((high - low).sum())
        return len(self.find(ids))

    def find(self, ids: np.ndarray, limit: int | None = None) -> np.ndarray:
        """The positions of `ids` (N,) in the split, int64 in order; the first `limit` of them."""
        if len(ids) > DEPTH:
            return self._beyond_depth(tuple(ids))[:limit]
        found: list[np.ndarray] = []
        wanted = limit
        for block, (low, high) in enumerate(zip(*self._ranges(tuple(ids)), strict=True)):
            positions = self._positions(block, int(low), int(high))
            if wanted is not None:
                positions = _smallest(positions, wanted)
                wanted -= len(positions)
            found.append(np.sort(positions))
            if wanted == 0:
                break
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def _filter(self, ids: tuple[int, ...]) -> np.ndarray:
        """The positions of more than `DEPTH` tokens: of those of the first, where the rest follows.

        The array is cached and not to be changed.
        """
        positions, rest = self.find(np.array(ids[:DEPTH])), np.array(ids[DEPTH:])
        return positions[self._common(positions + DEPTH, rest) == len(rest)]

    def longest_matches(self, ids: np.ndarray) -> list[Match]:
        """For each of `ids` (N,) the longest match that begins with it."""
        if not len(ids) or not len(self.order):
            return [Match(0, 0)] * len(ids)
        ids = np.asarray(ids)
        starts = np.repeat(np.arange(len(ids)), len(self._begins))
        blocks = np.tile(np.arange(len(self._begins)), len(ids))
        places = self._insertion(ids, starts, blocks, after=False)
        lengths, positions = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
        for neighbour in (places - 1, places):  # the nearest in order have most in common
            inside = (neighbour >= 0) & (neighbour < self._sizes[blocks])
            at = self._at(blocks, np.where(inside, neighbour, 0))
            common = self._common(at, ids, starts, DEPTH) * inside
            best = common.reshape(len(ids), -1).argmax(axis=1)
            best += np.arange(len(ids)) * len(self._begins)
            longer = np.flatnonzero(common[best] > lengths)
            lengths[longer], positions[longer] = common[best[longer]], at[best[longer]]
        matches = [Match(*pair) for pair in zip(lengths.tolist(), positions.tolist(), strict=True)]
        return self._extended(ids, matches)

    def _extended(self, ids: np.ndarray, matches: list[Match]) -> list[Match]:
        """The matches of `DEPTH` tokens as long as they can be made.

        One that another contains is not searched for: it is given as a part of that.
        """
        end = 0  # of the longest match so far
        for start, (length, _) in enumerate(matches):
            if length < DEPTH:
                continue
            before = matches[start - 1] if start else Match(0, 0)
            spans_end = end - DEPTH + 1  # the first start whose DEPTH tokens reach beyond `end`
            ends_there = end == len(ids) or matches[spans_end].length < DEPTH
            if start < spans_end and ends_there:
                matches[start] = Match(before.length - 1, before.position + 1)
                continue
            candidates = self.find(ids[start : start + DEPTH])
            lengths = self._common(candidates, ids[start:])
            best = int(lengths.argmax())
            matches[start] = Match(int(lengths[best]), int(candidates[best]))
            end = start + matches[start].length
        return matches

    def _search(self, ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(blocks,) where the suffixes that begin with `ids` begin and end in each block."""
        query, blocks = np.array(ids, np.int64), np.arange(len(self._begins))
        starts = np.zeros(len(blocks), np.int64)
        low = self._insertion(query, starts, blocks, after=False)
        return low, self._insertion(query, starts, blocks, after=True)

    def _insertion(
        self, ids: np.ndarray, starts: np.ndarray, blocks: np.ndarray, after: bool
    ) -> np.ndarray:
        """(R,) where the rest of `ids` from each start would be inserted in the order of a block.

        Args:
            ids: (N,) of which the first `DEPTH` from a start are compared.
            starts: (R,) in `ids`.
            blocks: (R,) numbers of blocks.
            after: after the suffixes that begin with it, rather than before.
        """
        low, high = np.zeros(len(blocks), np.int64), self._sizes[blocks]
        while (open_ := np.flatnonzero(low < high)).size:
            middle = (low[open_] + high[open_]) // 2
            positions = self._at(blocks[open_], middle)
            common = self._common(positions, ids, starts[open_], DEPTH)
            wanted = np.minimum(len(ids) - starts[open_], DEPTH)
            is_prefix = common == wanted
            queried = ids[np.minimum(starts[open_] + common, len(ids) - 1)]
            below = np.where(is_prefix, after, self._tokens(positions + common) < queried)
            low[open_[below]] = middle[below] + 1
            high[open_[~below]] = middle[~below]
        return low

    def _common(
        self,
        positions: np.ndarray,
        ids: np.ndarray,
        starts: np.ndarray | int = 0,
        depth: int | None = None,
    ) -> np.ndarray:
        """(R,) how many tokens from each position on equal those of `ids` from each start on.

        Args:
            depth: compare at most so many.
        """
        starts = np.broadcast_to(np.asarray(starts, np.int64), positions.shape)
        wanted = len(ids) - starts if depth is None else np.minimum(len(ids) - starts, depth)
        common, open_ = np.zeros(len(positions), np.int64), np.flatnonzero(wanted > 0)
        columns = np.arange(COLUMNS)
        while open_.size:
            places = common[open_][:, None] + columns  # (R, COLUMNS)
            queried = ids[np.minimum(starts[open_][:, None] + places, len(ids) - 1)]
            equal = self._tokens(positions[open_][:, None] + places) == queried
            equal &= places < wanted[open_][:, None]
            found = np.where(equal.all(axis=1), COLUMNS, (~equal).argmax(axis=1))
            common[open_] += found
            open_ = open_[found == COLUMNS]
        return common

    def _tokens(self, positions: np.ndarray) -> np.ndarray:
        """The tokens at `positions`, `PAST_END` after the last."""
        last = len(self.stream) - 1
        return np.where(positions <= last, self.stream.take(np.minimum(positions, last)), PAST_END)

    def _at(self, blocks: np.ndarray, places: np.ndarray) -> np.ndarray:
        """(R,) int64 positions in the split of places in the order of blocks."""
        begins = self._begins[blocks]
        return self.order[begins + places].astype(np.int64) + begins

    def _positions(self, block: int, low: int, high: int) -> np.ndarray:
        begin = int(self._begins[block])
        return self.order[begin + low : begin + high].astype(np.int64) + begin


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    return values if len(values) <= count else np.partition(values, count)[:count]


def open_suffix_arrays(
    data: TokenDataset, folder: Path | None = None, progress: Progress = lambda tokens: None
) -> dict[str, SuffixArray]:
    """The suffix array of each split of a data set; they are built if there are none of it yet.

    Args:
        folder: where they are; beside the data set if not given.
        progress: called with the number of tokens sorted so far, while they are built.

    Raises `KgptError` if they cannot be written.
    """
    folder = folder or data.folder / "suffix_array"
    if not _belongs_to(folder, data):
        _build(data, folder, progress)
    found = {}
    for split in data.manifest.splits:
        stream, file = data.tokens(split), folder / f"{split}.sa"
        order = np.memmap(file, np.uint32, "r") if len(stream) else np.zeros(0, np.uint32)
        found[split] = SuffixArray(stream, order, BLOCK_TOKENS)
    return found


def _description(data: TokenDataset) -> dict[str, object]:
    """What must be equal in index.json."""
    content = data.manifest.content_sha256
    return {"format": FORMAT, "content_sha256": content, "block_tokens": BLOCK_TOKENS}


def _belongs_to(folder: Path, data: TokenDataset) -> bool:
    try:
        found = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        sizes = {split: (folder / f"{split}.sa").stat().st_size for split in data.manifest.splits}
    except (OSError, ValueError):
        return False
    expected = {split: 4 * info.tokens for split, info in data.manifest.splits.items()}
    return bool(found == _description(data)) and sizes == expected


def _build(data: TokenDataset, folder: Path, progress: Progress) -> None:
    """Write the suffix arrays of all splits."""
    done = 0
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with (
        os_errors_as_kgpt(f"write the index of {data.folder} in {folder}"),
        atomic_dir(folder) as work,
        ThreadPoolExecutor(threads) as pool,
    ):
        for split in data.manifest.splits:
            with (work / f"{split}.sa").open("wb") as file:
                begins = range(0, data.manifest.splits[split].tokens, BLOCK_TOKENS)
                for first in range(0, len(begins), threads):
                    some = begins[first : first + threads]
                    for order in pool.map(
                        functools.partial(_read_and_sort_block, data, split), some
                    ):
                        file.write(order.tobytes())
                        done += len(order)
                        progress(done)
        write_json(work / "index.json", _description(data))


def _read_and_sort_block(data: TokenDataset, split: str, begin: int) -> np.ndarray:
    """`_sort_block` of a stream that is opened and closed: mapped pages count as memory."""
    return _sort_block(data.tokens(split), begin)


def _sort_block(stream: TokenStream, begin: int) -> np.ndarray:
    """(tokens of the block,) uint32: its positions in the order of what begins there."""
    total = min(BLOCK_TOKENS, len(stream) - begin)
    end = min(begin + total + DEPTH, len(stream))
    firsts = [0, *stream.ends[:-1].tolist()]  # where the shards begin
    ids = np.concatenate(
        [
            shard[max(0, begin - first) : max(0, end - first)]
            for shard, first in zip(stream.arrays, firsts, strict=True)
        ]
    )
    order = sort_suffixes(ids, int(ids.max()) + 1, DEPTH)
    return order[order < total]
