"""From documents to a data set: tokenized on all cores, in bounded memory.

Text is encoded in batches of about a megabyte, by the tokenizer's own threads. The data set appears
under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.data.conversation_encoder import ConversationEncoder, Truncate
from kgpt.data.shards import Manifest, SplitWriter, write_manifest
from kgpt.data.sources import Corpus, Document
from kgpt.errors import DataError, RunError, UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.runs import runs_on
from kgpt.text.chunking import chunk_text
from kgpt.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
TOKENIZER_SAMPLE = 200 << 20  # characters a tokenizer is trained on, at most
PROGRESS_BYTES = 1 << 18
COUNTED_BYTES = 1 << 20  # of a corpus whose documents are counted first
Progress = Callable[[int], None]


def train_tokenizer(
    corpus: Corpus, kind: str, vocab_size: int, min_frequency: int, progress: Progress
) -> Tokenizer:
    """A new "bpe", "char" or "byte" tokenizer for a corpus.

    Of a very large corpus BPE sees an even sample of `TOKENIZER_SAMPLE` characters.
    """
    if kind == "byte":
        return Tokenizer.of_bytes()
    texts = _report_progress(corpus, corpus.texts(), progress)
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
) -> Manifest:
    """Write `corpus` as the data set `out`; `progress` is called with the bytes read.

    A few texts are split by position, anything else by document: see `validation_documents`. The
    manifest says how many rows were left out and how many conversations were cut.

    Args:
        max_length, truncate: of conversations, see `ConversationEncoder`.
        overwrite: also replace the data set of a run, which then cannot be resumed; never that of a
            run that is training.

    Raises:
        DataError: a source is damaged, or there is no text to train on.
        RunError: `out` is the data set of a run.
    """
    check_replaceable(out, overwrite)
    with os_errors_as_kgpt(f"write the data set {out}"), atomic_dir(out) as folder:
        vocab_size = tokenizer.vocab_size
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        masked = corpus.has_conversations
        writers = {split: SplitWriter(folder, split, dtype, masked) for split in ("train", "val")}
        encoder = _Encoder(tokenizer, writers)
        conversations = None
        if masked:
            conversations = ConversationEncoder(tokenizer, max_length, truncate, corpus.invalid)
        end = [] if corpus.is_one_text or tokenizer.eos_id is None else [tokenizer.eos_id]
        validates = validation_documents(val_fraction, _count(corpus))
        for document in _report_progress(corpus, corpus.documents(), progress):
            chunks = _chunks(document, conversations, end)
            if chunks is None:
                continue
            encoder.begin(document.split or ("val" if next(validates) else "train"))
            for chunk in chunks:
                encoder.add(*chunk)
        encoder.flush()
        manifest = Manifest(
            tokenizer_sha256=tokenizer.fingerprint,
            vocab_size=vocab_size,
            dtype=dtype,
            sources=corpus.names,
            splits={split: writer.close() for split, writer in writers.items()},
            invalid_rows=corpus.invalid.count,
            truncated=conversations.truncated if conversations else 0,
            too_long=conversations.too_long if conversations else 0,
            max_length=max_length if conversations else None,
        )
        if not manifest.splits["train"].tokens:
            raise DataError(f"{', '.join(corpus.names)} hold no text to train on.")
        tokenizer.save(folder)
        write_manifest(folder, manifest)
    return manifest


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


@dataclass
class _Chunk:
    """Text to encode, or ids, and which split they belong to."""

    content: str | list[int]
    split: str
    starts_document: bool
    loss_mask: bool | list[bool]
    text_bytes: int  # UTF-8 bytes of the text, markup excluded


class _Encoder:
    """Collects text until a batch is full, then encodes it and gives the ids to the writers."""

    def __init__(self, tokenizer: Tokenizer, writers: dict[str, SplitWriter]):
        self._tokenizer, self._writers = tokenizer, writers
        self._split, self._starts_document = "train", False
        self._pending: list[_Chunk] = []
        self._characters = 0

    def begin(self, split: str) -> None:
        self._split, self._starts_document = split, True

    def add(
        self, content: str | list[int], loss_mask: bool | list[bool] = True, text_bytes: int = 0
    ) -> None:
        if isinstance(content, str):
            text_bytes = _utf8_bytes(content)
        starts = self._starts_document
        self._pending.append(_Chunk(content, self._split, starts, loss_mask, text_bytes))
        self._starts_document = False
        self._characters += len(content)
        if self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        texts = [chunk.content for chunk in self._pending if isinstance(chunk.content, str)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        batches = {split: _Batch() for split in self._writers}
        for chunk in self._pending:
            ids = next(encoded) if isinstance(chunk.content, str) else chunk.content
            batches[chunk.split].add(chunk, ids)
        for split, batch in batches.items():
            batch.write_to(self._writers[split])
        self._pending, self._characters = [], 0


class _Batch:
    """The ids that one batch adds to a split."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.starts: list[int] = []
        self.loss_mask: list[np.ndarray] = []
        self.text_bytes = 0

    def add(self, chunk: _Chunk, ids: Sequence[int]) -> None:
        if chunk.starts_document:
            self.starts.append(len(self.ids))
        self.text_bytes += chunk.text_bytes
        self.ids += ids
        self.loss_mask.append(np.broadcast_to(np.array(chunk.loss_mask, "uint8"), len(ids)))

    def write_to(self, writer: SplitWriter) -> None:
        writer.begin_documents(self.starts)
        writer.write(self.ids, np.concatenate(self.loss_mask or [np.zeros(0, "uint8")]))
        writer.info.text_bytes += self.text_bytes


def _chunks(
    document: Document, conversations: ConversationEncoder | None, end: list[int]
) -> Iterable[tuple[Any, ...]] | None:
    """A document in chunks, the arguments of `_Encoder.add`; None if it is left out.

    Text is cut so that it encodes as the whole would. Of a conversation, the assistant's turns
    count in the loss, including the token that ends them.
    """
    if document.messages is None:
        texts = ((chunk, True) for chunk in chunk_text(document.parts))
        return itertools.chain(texts, [(end,)] if end else [])
    if conversations is None:
        raise DataError(
            f"{document.where}: the file begins with texts and goes on with conversations; "
            "give conversations a file of their own."
        )
    encoded = conversations.encode(document.messages, document.where)
    text_bytes = sum(_utf8_bytes(message["content"]) for message in document.messages)
    return encoded and [(*encoded, text_bytes)]


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


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


def _count(corpus: Corpus) -> int | None:
    """The number of documents of a small corpus; None if counting would cost time."""
    if corpus.total_bytes > COUNTED_BYTES:
        return None
    return sum(1 for document in corpus.documents() for _ in [list(document.parts)])


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
