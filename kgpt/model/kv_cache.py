"""Key/value caches: what a model remembers of texts, so that each token is computed once.

A cache is a list with one (keys, values) pair a layer, each (B, K, S, H): B texts, S places. The
token at position p of a text lies at place p mod S, so a text longer than S forgets its oldest
tokens, one by one, and no place ever moves. Which position a place holds follows from the
position of the newest token alone (`visible`); nothing else is kept.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import ModelConfig


def init_kv_cache(config: ModelConfig, rows: int, places: int, dtype="float32"):
    """A cache of zeros for `rows` texts of `places` tokens."""
    shape = (rows, config.num_kv_heads, places, config.head_dim)
    return [(ops.zeros(shape, dtype), ops.zeros(shape, dtype)) for _ in range(config.num_layers)]


def cache_bytes(config: ModelConfig, tokens: int, width: int = 4) -> int:
    """Bytes that the cache of one text of `tokens` takes, at `width` bytes a number."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * tokens * width


class Extension(NamedTuple):
    """Where new tokens go in a cache and what they look at: the same in every layer."""

    positions: Any  # (B, T) in the texts
    targets: Any  # what `backend.update_cache` takes
    seen: Any  # (B, T, S) booleans


def plan_cache_update(start, count, length, places, window=None) -> Extension:
    """The `Extension` by `length` tokens, of which the first `count` (B,) of a row are real.

    Args:
        start: (B,) position of each row's first new token.
        places, window: as for `visible`.
    """
    positions = start[:, None] + ops.arange(length)[None]  # (B, T)
    targets = backend.cache_indices(start, count, length, places)
    return Extension(positions, targets, visible(positions, start + count - 1, places, window))


def visible(positions, newest, places, window=None):
    """Which places each query may look at: (B, T, S) booleans.

    Args:
        positions: (B, T) of the queries.
        newest: (B,) position of the last token written.
        places: S.
        window: a query sees at most so many tokens, itself included; None sees all.
    """
    # The position a place holds is the greatest one up to `newest` that is equal to it mod S.
    place = ops.arange(places)[None]
    held = newest[:, None] - ops.mod(newest[:, None] - place, places)  # (B, S)
    held = held[:, None]  # (B, 1, S)
    seen = ops.logical_and(held >= 0, held <= positions[:, :, None])
    if window is not None:
        seen = ops.logical_and(seen, held > positions[:, :, None] - window)
    return seen


def bucket(length: int, smallest: int = 16) -> int:
    """`length` rounded up to a power of two, so that few shapes are ever compiled."""
    return max(smallest, 1 << int(np.ceil(np.log2(max(length, 1)))))
