"""Encoded batches, in the order of the documents, to a data set on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from kgpt.config import DocumentSelectionConfig
from kgpt.data.deduplication import Deduplicator
from kgpt.data.encoded_batch import EncodedBatch
from kgpt.data.invalid_rows import SHOWN, InvalidRows
from kgpt.data.shard_writer import write_manifest
from kgpt.data.shards import Manifest
from kgpt.data.split_assembly import SplitAssembly
from kgpt.errors import DataError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.text.tokenizer import Tokenizer

COUNTED_BYTES = 1 << 20  # of a corpus whose documents are counted before they are split


class DataSetDescription(BaseModel):
    """What a data set is made of and how, beside the documents themselves.

    Attributes:
        source_bytes: of all sources.
        masked: whether it has a loss mask, that of conversations.
    """

    sources: list[str]
    source_bytes: int
    tokenizer_sha256: str
    vocab_size: int
    dtype: str
    masked: bool
    val_fraction: float
    max_length: int | None = None
    selection: DocumentSelectionConfig = DocumentSelectionConfig()


def write_data_set(
    batches: Iterable[EncodedBatch],
    tokenizer: Tokenizer,
    description: DataSetDescription,
    out: Path,
) -> tuple[Manifest, InvalidRows]:
    """Write `batches` as the data set `out`; also returns which rows were left out.

    Raises:
        DataError: there is no text to train on.
    """
    counts: Counter[str] = Counter()
    invalid = InvalidRows(skip=True)
    with os_errors_as_kgpt(f"write the data set {out}"), atomic_dir(out) as folder:
        chosen, num_documents = _documents(batches, description)
        options = description.dtype, description.masked, description.val_fraction
        assembly = SplitAssembly(folder, *options, num_documents)
        for batch, kept in chosen:
            assembly.add(batch, kept)
            counts.update(batch.counts)
            invalid.first = [*invalid.first, *batch.invalid][:SHOWN]
        invalid.count = counts["invalid_rows"]
        manifest = Manifest(
            tokenizer_sha256=description.tokenizer_sha256,
            vocab_size=description.vocab_size,
            dtype=description.dtype,
            sources=description.sources,
            splits=assembly.close(),
            invalid_rows=counts["invalid_rows"],
            truncated=counts["truncated"],
            too_long=counts["too_long"],
            max_length=description.max_length,
            left_out={rule: counts[rule] for rule in description.selection.rules},
        )
        if not manifest.splits["train"].tokens:
            left = "; the filters left nothing" * bool(+Counter(manifest.left_out))
            raise DataError(f"{', '.join(description.sources)} hold no text to train on{left}.")
        tokenizer.save(folder)
        write_manifest(folder, manifest)
    return manifest, invalid


Chosen = tuple[EncodedBatch, np.ndarray]


def _documents(
    batches: Iterable[EncodedBatch], description: DataSetDescription
) -> tuple[Iterable[Chosen], int | None]:
    """Batches, each with which of its documents are kept, and how many if they are few."""
    chosen = _without_duplicates(batches, description.selection)
    if description.source_bytes > COUNTED_BYTES:
        return chosen, None
    held = list(chosen)
    return held, sum(int(kept.sum()) for _, kept in held)


def _without_duplicates(
    batches: Iterable[EncodedBatch], selection: DocumentSelectionConfig
) -> Iterator[Chosen]:
    """Batches, each with which of its documents are the first of their kind."""
    deduplicator = None if selection.dedup == "none" else Deduplicator(selection)
    for batch in batches:
        count = int(batch.starts.sum())
        kept = np.ones(count, bool)
        if deduplicator is not None and count:
            kept = deduplicator.is_first(batch.keys)
            batch.counts[selection.dedup_rule] += count - int(kept.sum())
        yield batch, kept
