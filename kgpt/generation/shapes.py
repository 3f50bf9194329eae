"""The few shapes that programs are compiled for."""

from __future__ import annotations

PREFILL_CHUNK_SIZES = (256, 64, 16)  # prompt tokens computed in one call
MIN_CACHE_LEN = 128  # the next larger cache has twice as many positions


def prefill_chunk_size(length: int, cache_len: int) -> int:
    """The smallest compiled chunk size that holds `length` tokens."""
    return min(min(size for size in PREFILL_CHUNK_SIZES if size >= length), max(cache_len, length))


def shape_buckets(largest: int, smallest: int, factor: int = 2) -> list[int]:
    """The sizes that programs are compiled for, up to `largest`: few, so recompiling is rare.

    >>> shape_buckets(1024, 128), shape_buckets(8, 1, factor=4)
    ([128, 256, 512, 1024], [1, 4, 8])
    """
    sizes = [min(smallest, largest)]
    while sizes[-1] < largest:
        sizes.append(min(factor * sizes[-1], largest))
    return sizes
