"""Encoded batches, in their order, to the splits and shards of a data set."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kgpt.data.encoded_batch import SPLITS, UNDECIDED, EncodedBatch
from kgpt.data.shard_writer import SplitWriter
from kgpt.data.shards import SplitInfo

LEFT_OUT = -1  # in place of a split


class SplitAssembly:
    """Decides the split of each document and writes it.

    The result depends on the order of the documents alone, not on who encoded them.

    Args:
        folder: of the shards.
        masked: also write a loss mask.
        val_fraction: of documents whose source does not determine their split.
        num_documents: how many these are, if they are few; see `validation_documents`.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        masked: bool,
        val_fraction: float,
        num_documents: int | None = None,
    ):
        self._writers = [SplitWriter(folder, split, dtype, masked) for split in SPLITS]
        self._masked = masked
        self._validates = validation_documents(val_fraction, num_documents)
        self._last = LEFT_OUT  # the split of the document that the last batch ended with

    def add(self, batch: EncodedBatch, kept: np.ndarray) -> None:
        """Write the documents of a batch.

        Args:
            kept: (documents,) bool, of those that start in it; others are left out.
        """
        splits = self._split_of_pieces(batch, kept)
        of_tokens = np.repeat(splits, batch.lengths)
        for index, writer in enumerate(self._writers):
            lengths = np.where(splits == index, batch.lengths, 0)
            offsets = np.cumsum(lengths) - lengths
            writer.begin_documents(offsets[batch.starts & (splits == index)])
            chosen = of_tokens == index
            writer.write(batch.ids[chosen], batch.loss_mask[chosen] if self._masked else True)
            writer.info.text_bytes += int(batch.text_bytes[splits == index].sum())

    def close(self) -> dict[str, SplitInfo]:
        return {split: writer.close() for split, writer in zip(SPLITS, self._writers, strict=True)}

    def _split_of_pieces(self, batch: EncodedBatch, kept: np.ndarray) -> np.ndarray:
        """(pieces,) the split of each piece, that of the document it belongs to."""
        of_documents = [self._last]
        for split, is_kept in zip(batch.splits[batch.starts].tolist(), kept.tolist(), strict=True):
            if is_kept and split == UNDECIDED:
                split = int(next(self._validates))
            of_documents.append(split if is_kept else LEFT_OUT)
        self._last = of_documents[-1]
        return np.array(of_documents)[np.cumsum(batch.starts)]


def validation_documents(fraction: float, count: int | None = None) -> Iterator[bool]:
    """For each document in turn, whether it is for validation.

    One document of every 1 / `fraction` is, at a place given by a hash, so that the share is exact
    to one document whatever their number, and appending documents moves none.

    Args:
        count: the number of documents if they are few: one of two or more then validates.
    """
    if fraction > 0.5:
        yield from (not train for train in validation_documents(1 - fraction, count))
    if not fraction or count == 1:
        yield from itertools.repeat(False)
    for group in itertools.count():
        first, end = math.ceil(group / fraction), math.ceil((group + 1) / fraction)
        digest = hashlib.blake2b(group.to_bytes(8, "little"), digest_size=4).digest()
        size = end - first if group else min(end, count or end)
        chosen = int.from_bytes(digest, "little") % size
        yield from (place == chosen for place in range(end - first))
