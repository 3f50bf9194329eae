"""From documents to a data set: tokenised on all cores, in memory that does not grow.

Text flows through in batches of about a megabyte; the tokenizer's own threads encode each batch.
The data set appears under its name only when it is complete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from kgpt.data.shards import Manifest, SplitWriter, write_manifest
from kgpt.data.sources import Corpus, Document
from kgpt.errors import DataError
from kgpt.files import explained, new_folder
from kgpt.text.chat import ChatFormat
from kgpt.text.tokenizer import Tokenizer, pieces

BATCH_CHARACTERS = 1 << 20
TOKENIZER_SAMPLE = 200 << 20  # characters a tokenizer is trained on, at most
Progress = Callable[[int], None]


def train_tokenizer(
    corpus: Corpus, kind: str, vocab_size: int, min_frequency: int, progress: Progress
) -> Tokenizer:
    """A new "bpe", "char" or "byte" tokenizer for a corpus.

    Of a very large corpus BPE sees an even sample of `TOKENIZER_SAMPLE` characters.
    """
    if kind == "byte":
        return Tokenizer.of_bytes()
    texts = _watched(corpus, corpus.texts(), progress)
    if kind == "char":
        return Tokenizer.of_characters(texts)
    every = max(1, -(-corpus.total_bytes // TOKENIZER_SAMPLE))
    sample = (text for number, text in enumerate(pieces(texts)) if number % every == 0)
    return Tokenizer.train_bpe(sample, vocab_size, min_frequency=min_frequency)


def prepare(
    corpus: Corpus,
    tokenizer: Tokenizer,
    out: Path,
    val_fraction: float = 0.1,
    progress: Progress = lambda read: None,
) -> Manifest:
    """Write `corpus` as the data set `out`; `progress` is told the bytes read so far.

    A corpus of one text is split by position, any other by document: which documents validate
    is decided by a hash of their number, so adding text at the end moves none.
    """
    with explained(f"write the data set {out}"), new_folder(out) as folder:
        vocab_size = tokenizer.vocab_size
        dtype = "uint16" if vocab_size <= 1 << 16 else "uint32"
        writers = {split: SplitWriter(folder, split, dtype) for split in ("train", "val")}
        end = tokenizer.end_of_text
        encoder = _Encoder(tokenizer, writers)
        for number, document in enumerate(_watched(corpus, corpus.documents(), progress)):
            split = document.split or _split_of(number, val_fraction)
            encoder.begin(split)
            for part in _parts(document, tokenizer):
                encoder.add(part)
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


class _Encoder:
    """Collects text until a batch is full, encodes it, and hands the ids to the writers.

    What waits is a list of pieces: text to encode, or ids ready to write, each with its split
    and whether a document begins there.
    """

    def __init__(self, tokenizer: Tokenizer, writers: dict[str, SplitWriter]):
        self._tokenizer, self._writers = tokenizer, writers
        self._split = "train"
        self._begins = False
        self._waiting: list[tuple[str, bool, str | list[int]]] = []
        self._characters = 0

    def begin(self, split: str) -> None:
        self._split, self._begins = split, True

    def add(self, piece: str | list[int]) -> None:
        self._waiting.append((self._split, self._begins, piece))
        self._begins = False
        self._characters += len(piece)
        if self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        texts = [piece for _, _, piece in self._waiting if isinstance(piece, str)]
        encoded = iter(self._tokenizer.encode_batch(texts))
        for split, begins, piece in self._waiting:
            writer = self._writers[split]
            if begins:
                writer.begin_document()
            if isinstance(piece, str):
                writer.info.text_bytes += len(piece.encode("utf-8", "replace"))
                writer.write(np.asarray(next(encoded)))
            else:
                writer.write(piece)
        self._waiting, self._characters = [], 0


def _parts(document: Document, tokenizer: Tokenizer) -> Iterator[str | list[int]]:
    """The text of a document in pieces that encode as the whole would, or a conversation's ids."""
    if document.messages is None:
        yield from pieces(document.parts)
        return
    chat = ChatFormat(tokenizer)
    for message in document.messages:
        yield chat.opening(message["role"])
        yield message["content"]
        yield chat.end


def _split_of(number: int, val_fraction: float) -> str:
    digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=4).digest()
    return "val" if int.from_bytes(digest, "little") < val_fraction * 2**32 else "train"


def _watched(corpus: Corpus, items: Iterable, progress: Progress) -> Iterator:
    """Pass items on, telling `progress` how much of the corpus has been read."""
    for item in items:
        if isinstance(item, Document):
            item.parts = _watched(corpus, item.parts, progress)
        yield item
        progress(corpus.bytes_read)
