"""From documents to a data set: tokenized on all cores, in bounded memory.

Text is encoded in batches of about a megabyte. The data set appears under its name only when it is
complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kgpt.config import DocumentSelectionConfig
from kgpt.data.assembly import DataSetDescription, write_data_set
from kgpt.data.batch_encoder import EncodingOptions
from kgpt.data.conversation_encoder import Truncate
from kgpt.data.document_filters import DocumentFilters
from kgpt.data.encoded_batch import EncodedBatch
from kgpt.data.parallel_encoding import encode_batches
from kgpt.data.parts import PartDescription, PartWriter, ordered_parts, read_encoded
from kgpt.data.shards import Manifest
from kgpt.data.source_batches import SourceBatch, Unit, read_batches
from kgpt.data.sources import Corpus, Document
from kgpt.errors import RunError, UsageError
from kgpt.files import os_errors_as_kgpt
from kgpt.runs import runs_on
from kgpt.text.tokenizer import Tokenizer

TOKENIZER_SAMPLE = 200 << 20  # characters a tokenizer is trained on, at most
EVERYTHING = DocumentSelectionConfig()
PROGRESS_BYTES = 1 << 18
Progress = Callable[[int], None]


def train_tokenizer(
    corpus: Corpus,
    kind: str,
    vocab_size: int,
    min_frequency: int,
    progress: Progress,
    selection: DocumentSelectionConfig = EVERYTHING,
) -> Tokenizer:
    """A new "bpe", "char" or "byte" tokenizer for a corpus.

    Of a very large corpus BPE sees an even sample of `TOKENIZER_SAMPLE` characters. Of the rules of
    `selection` all but deduplication apply.
    """
    check_documents(corpus, selection)
    if kind == "byte":
        return Tokenizer.of_bytes()
    filters = DocumentFilters(selection)
    rejects = (lambda text: filters.rule_against(text) is not None) if filters else None
    texts = _report_progress(corpus, corpus.texts(rejects), progress)
    if kind == "char":
        return Tokenizer.of_characters(texts)
    every = max(1, -(-corpus.total_bytes // TOKENIZER_SAMPLE))
    sample = (text for number, text in enumerate(texts) if number % every == 0)
    return Tokenizer.train_bpe(sample, vocab_size, min_frequency=min_frequency)


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    out: Path,
    val_fraction: float = 0.1,
    progress: Progress = lambda read: None,
    overwrite: bool = False,
    max_length: int | None = None,
    truncate: Truncate = "keep-start",
    workers: int | None = None,
    selection: DocumentSelectionConfig = EVERYTHING,
) -> Manifest:
    """Write `corpus` as the data set `out`; `progress` is called with the bytes read.

    A few texts are split by position, anything else by document: see `validation_documents`. The
    manifest says how many rows were left out and how many conversations were cut.

    Args:
        max_length, truncate: of conversations, see `ConversationEncoder`.
        overwrite: also replace the data set of a run, which then cannot be resumed; never that of a
            run that is training.
        workers: processes that encode; None encodes in threads. The bytes are the same.
        selection: which documents are left out.

    Raises:
        DataError: a source is damaged, or there is no text to train on.
        RunError: `out` is the data set of a run.
    """
    check_replaceable(out, overwrite)
    description = describe_data_set(corpus, tokenizer, val_fraction, max_length, selection)
    options = encoding_options(corpus, description, truncate)
    batches = read_corpus(corpus, description, progress)
    encoded = encode_batches(batches, tokenizer, options, workers)
    with contextlib.closing(encoded):
        manifest, invalid = write_data_set(encoded, tokenizer, description, out)
    corpus.invalid.take(invalid)
    return manifest


def prepare_part(
    corpus: Corpus,
    tokenizer: Tokenizer,
    out: Path,
    part: int,
    num_parts: int,
    val_fraction: float = 0.1,
    progress: Progress = lambda read: None,
    max_length: int | None = None,
    truncate: Truncate = "keep-start",
    workers: int | None = None,
    selection: DocumentSelectionConfig = EVERYTHING,
) -> PartDescription:
    """Encode part `part` (from 1 on) of `num_parts` of `corpus` into the folder `out`.

    If `out` has some of it, it goes on from there. The other arguments are those of `prepare`, and
    must be the same for all parts, but for `workers`.

    Raises:
        UsageError: `out` has something else in it.
        DataError: a source is damaged, or has changed since the part was begun.
    """
    data_set = describe_data_set(corpus, tokenizer, val_fraction, max_length, selection)
    options = encoding_options(corpus, data_set, truncate)
    description = PartDescription(
        part=part, num_parts=num_parts, data_set=data_set, encoding=options
    )
    with (
        os_errors_as_kgpt(f"write the part {out}"),
        PartWriter(out, description, tokenizer) as writer,
    ):
        batches = writer.missing(read_corpus(corpus, data_set, progress))
        with contextlib.closing(encode_batches(batches, tokenizer, options, workers)) as encoded:
            for batch in encoded:
                writer.add(batch)
        return writer.complete()


def merge(
    folders: Sequence[Path],
    out: Path,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Write the data set `out` of all its parts: the same bytes as `prepare` writes in one go.

    Args:
        folders: of the parts, in any order.
        progress: is called with the number of batches written, and that of all.

    Raises:
        UsageError: the folders are not the parts of one data set.
        DataError: a part is not complete, or damaged.
    """
    check_replaceable(out, overwrite)
    first, ordered = ordered_parts(list(folders))
    tokenizer = Tokenizer.load(ordered[0])
    batches = _report_batches(read_encoded(ordered), first.num_batches or 0, progress)
    manifest, _ = write_data_set(batches, tokenizer, first.data_set, out)
    return manifest


def _report_batches(
    batches: Iterable[EncodedBatch], total: int, progress: Callable[[int, int], None]
) -> Iterator[EncodedBatch]:
    """Pass batches on, calling `progress` with how many of them there were."""
    for number, batch in enumerate(batches, 1):
        yield batch
        progress(number, total)


def describe_data_set(
    corpus: Corpus,
    tokenizer: Tokenizer,
    val_fraction: float,
    max_length: int | None,
    selection: DocumentSelectionConfig,
) -> DataSetDescription:
    """What decides the data set beside the documents; see `check_documents`."""
    check_documents(corpus, selection)
    masked, vocab_size = corpus.has_conversations, tokenizer.vocab_size
    return DataSetDescription(
        sources=corpus.names,
        source_bytes=corpus.total_bytes,
        tokenizer_sha256=tokenizer.fingerprint,
        vocab_size=vocab_size,
        dtype="uint16" if vocab_size <= 1 << 16 else "uint32",
        masked=masked,
        val_fraction=val_fraction,
        max_length=max_length if masked else None,
        selection=selection,
    )


def encoding_options(
    corpus: Corpus, description: DataSetDescription, truncate: Truncate
) -> EncodingOptions:
    return EncodingOptions(
        dtype=description.dtype,
        masked=description.masked,
        ends_texts=not corpus.is_one_text,
        max_length=description.max_length,
        truncate=truncate,
        skip_invalid=corpus.invalid.skip,
        selection=description.selection,
    )


def read_corpus(
    corpus: Corpus, description: DataSetDescription, progress: Progress
) -> Iterator[SourceBatch]:
    """The batches of `corpus`; `progress` is called with the bytes read."""
    documents = _report_progress(corpus, corpus.documents(), progress)
    unit: Unit = "document" if description.selection.rules else "chunk"
    return read_batches(corpus, documents, unit)


def check_documents(corpus: Corpus, selection: DocumentSelectionConfig) -> None:
    """Raise `UsageError` if `selection` has rules, but the corpus is a few undivided texts."""
    if selection.rules and corpus.is_split_by_position:
        raise UsageError(
            f"{selection.rules[0].split()[0]} chooses among documents; tell with --separator what "
            f"divides {corpus.names[0]} into documents, or give rows."
        )


def check_replaceable(out: Path, overwrite: bool = False) -> list[str]:
    """The names of the ended runs whose data set `out` is, which `overwrite` allows to replace.

    Raises:
        UsageError: `out` is something else than a data set, which would be lost.
        RunError: it is the data set of a run that is training, or of any run without `overwrite`.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return []
    if not (out / "manifest.json").is_file():
        raise UsageError(f"{out} exists and is no data set; choose another name for --out.")
    runs = runs_on(out)
    names = ", ".join(run.name for run in runs)
    if active := [run.name for run in runs if run.is_active]:
        raise RunError(
            f"The data set {out} is in use by {', '.join(active)}, which is training; stop the run "
            "first, or choose another name for --out."
        )
    if runs and not overwrite:
        raise RunError(
            f"The data set {out} is that of {names}, which could not be resumed without it; "
            "choose another name for --out, or replace it with --overwrite."
        )
    return [run.name for run in runs]


def _report_progress(corpus: Corpus, items: Iterable[Any], progress: Progress) -> Iterator[Any]:
    """Pass items on, calling `progress` now and then with the bytes of the corpus read."""
    reported = 0
    for item in items:
        if isinstance(item, Document):
            item.parts = _report_progress(corpus, item.parts, progress)
        yield item
        if corpus.bytes_read - reported >= PROGRESS_BYTES:
            reported = corpus.bytes_read
            progress(reported)
    progress(corpus.bytes_read)
