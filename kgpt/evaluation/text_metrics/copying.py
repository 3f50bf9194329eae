"""How much of generated texts is copied from a data set (McCoy et al., 2023, "RAVEN")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kgpt.data.novelty import novelty
from kgpt.data.shards import TokenDataset
from kgpt.data.suffix_array import open_suffix_arrays
from kgpt.evaluation.statistic import Statistic


def copying_statistics(texts: Sequence[str], folder: Path, min_tokens: int) -> dict[str, Statistic]:
    """The share of the texts' tokens that is copied, and the longest copied span of each.

    Tokens are those of the data set's tokenizer; its suffix arrays are built if there are none.

    Args:
        folder: of the data set.
        min_tokens: of the shortest span that counts as copied.

    Raises:
        DataError: there is no data set.
        KgptError: its suffix arrays cannot be written.
    """
    data = TokenDataset(folder)
    arrays = open_suffix_arrays(data)
    found = [
        novelty(np.array(ids, np.int64), arrays, min_tokens)
        for ids in data.tokenizer.encode_batch(list(texts))
    ]
    copied = [one.copied * one.tokens for one in found]
    longest = [float(one.longest.tokens) if one.longest else 0.0 for one in found]
    return {
        "copied": Statistic.ratio(copied, [one.tokens for one in found], "lower"),
        "longest_copy": Statistic.mean(longest, "lower"),
    }
