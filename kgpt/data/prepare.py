"""From documents to a data set: tokenized on all cores, in bounded memory.

Text is encoded in batches of about a megabyte, by the tokenizer's own threads. The data set appears
under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.data.shards import Manifest, SplitWriter, write_manifest
from kgpt.data.sources import Corpus, Document
from kgpt.errors import DataError, UsageError
from kgpt.files import atomic_dir, os_errors_as_kgpt
from kgpt.text.chat_template import ChatMLTemplate
from kgpt.text.chunking import chunk_text
from kgpt.text.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20
TOKENIZER_SAMPLE = 200 << 20  # characters a tokenizer is trained on, at most
PROGRESS_BYTES = 1 << 18
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
) -> Manifest:
    """Write `corpus` as the data set `out`; `progress` is called with the bytes read.

    A corpus of one text is split by position, any other by document: which documents validate
    is decided by a hash of their number, so appending documents moves none.
    """
    _check_replaceable(out)
    with os_errors_as_kgpt(f"write the data set {out}"), atomic_dir(out) as folder:
        vocab_size = tokenizer.vocab_size
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        masked = corpus.has_conversations
        chat = ChatMLTemplate(tokenizer) if masked else None
        writers = {split: SplitWriter(folder, split, dtype, masked) for split in ("train", "val")}
        end = tokenizer.eos_id
        encoder = _Encoder(tokenizer, writers)
        for number, document in enumerate(_report_progress(corpus, corpus.documents(), progress)):
            encoder.begin(document.split or _split_of(number, val_fraction))
            for part, loss_mask in _parts(document, chat):
                encoder.add(part, loss_mask)
            if end is not None and not corpus.is_one_text:
                encoder.add([end])
        encoder.flush()
        manifest = Manifest(
            tokenizer_sha256=tokenizer.fingerprint,
            vocab_size=vocab_size,
            dtype=dtype,
            sources=corpus.names,
            splits={split: writer.close() for split, writer in writers.items()},
        )
        if not manifest.splits["train"].tokens:
            raise DataError(f"{', '.join(corpus.names)} hold no text to train on.")
        tokenizer.save(folder)
        write_manifest(folder, manifest)
    return manifest


def _check_replaceable(out: Path) -> None:
    """Raise `UsageError` if `out` is something else than a data set, which would be lost."""
    is_free = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_free and not (out / "manifest.json").is_file():
        raise UsageError(f"{out} exists and is no data set; choose another name for --out.")


@dataclass
class _Chunk:
    """Text to encode, or ids, and which split they belong to."""

    content: str | list[int]
    split: str
    starts_document: bool
    loss_mask: bool


class _Encoder:
    """Collects text until a batch is full, then encodes it and gives the ids to the writers."""

    def __init__(self, tokenizer: Tokenizer, writers: dict[str, SplitWriter]):
        self._tokenizer, self._writers = tokenizer, writers
        self._split, self._starts_document = "train", False
        self._pending: list[_Chunk] = []
        self._characters = 0

    def begin(self, split: str) -> None:
        self._split, self._starts_document = split, True

    def add(self, content: str | list[int], loss_mask: bool = True) -> None:
        self._pending.append(_Chunk(content, self._split, self._starts_document, loss_mask))
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
        self.sizes: list[int] = []
        self.loss_mask: list[bool] = []
        self.text_bytes = 0

    def add(self, chunk: _Chunk, ids: Sequence[int]) -> None:
        if chunk.starts_document:
            self.starts.append(len(self.ids))
        if isinstance(chunk.content, str):
            self.text_bytes += len(chunk.content.encode("utf-8", "replace"))
        self.ids += ids
        self.sizes.append(len(ids))
        self.loss_mask.append(chunk.loss_mask)

    def write_to(self, writer: SplitWriter) -> None:
        writer.begin_documents(self.starts)
        writer.write(self.ids, np.repeat(np.array(self.loss_mask, dtype=np.uint8), self.sizes))
        writer.info.text_bytes += self.text_bytes


def _parts(
    document: Document, chat: ChatMLTemplate | None
) -> Iterator[tuple[str | list[int], bool]]:
    """A document in chunks, text or ids, each with its loss mask.

    Text is cut so that it encodes as the whole would. Of a conversation, the assistant's turns
    count in the loss, including the token that ends them.
    """
    if document.messages is None:
        yield from ((chunk, True) for chunk in chunk_text(document.parts))
        return
    if chat is None:
        raise DataError(
            "A file begins with texts and goes on with conversations; "
            "give conversations a .jsonl file of their own."
        )
    for message in document.messages:
        by_model = message["role"] == "assistant"
        yield chat.turn_header(message["role"]), False
        yield message["content"], by_model
        yield chat.end[:1], by_model
        yield chat.end[1:], False


def _split_of(number: int, val_fraction: float) -> str:
    """The split of a document: "val" for `val_fraction` of the numbers, chosen by a hash."""
    digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=4).digest()
    return "val" if int.from_bytes(digest, "little") < val_fraction * 2**32 else "train"


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
