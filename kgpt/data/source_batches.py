"""The documents of a corpus in numbered batches, the unit that workers and parts share.

Which documents a batch has depends on the corpus alone, so that the data set is the same whoever
encodes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from kgpt.conversations import Message
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.sources import Corpus, Document, Split
from kgpt.text.chunking import chunk_text

BATCH_CHARACTERS = 1 << 20
Unit = Literal["chunk", "document"]


@dataclass
class Piece:
    """A document, or a chunk of a long text.

    Attributes:
        content: a text or a conversation.
        split, where: see `Document`.
        starts, ends: whether a document starts and ends with it.
    """

    content: str | list[Message]
    split: Split | None = None
    where: str = ""
    starts: bool = True
    ends: bool = True

    @property
    def text(self) -> str:
        """The text, or that of all messages, one below the other."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(message["content"] for message in self.content)


@dataclass
class SourceBatch:
    """Consecutive documents of about a megabyte.

    Attributes:
        invalid: the rows left out while it was read.
    """

    number: int
    pieces: list[Piece] = field(default_factory=list)
    characters: int = 0
    invalid: InvalidRows = field(default_factory=lambda: InvalidRows(skip=True))

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        whole = isinstance(piece.content, str)
        self.characters += len(piece.content if whole else piece.text)

    def digest(self) -> bytes:
        """16 bytes that are equal for equal documents."""
        hashed = hashlib.blake2b(digest_size=16)
        for piece in self.pieces:
            content = piece.content if isinstance(piece.content, str) else json.dumps(piece.content)
            data = content.encode("utf-8", "surrogatepass")
            hashed.update(f"{piece.split} {piece.starts} {piece.ends} {len(data)} ".encode() + data)
        return hashed.digest()


def read_batches(
    corpus: Corpus, documents: Iterator[Document], unit: Unit
) -> Iterator[SourceBatch]:
    """The batches of `documents`, those of a corpus.

    Args:
        unit: what is not divided between batches: chunks of a text, or whole documents, which are
            then held in memory.
    """
    batch = SourceBatch(0)
    for document in documents:
        for piece in _whole(document) if unit == "document" else _chunks(document):
            batch.add(piece)
            if batch.characters >= BATCH_CHARACTERS:
                yield _with_invalid(batch, corpus)
                batch = SourceBatch(batch.number + 1)
    yield _with_invalid(batch, corpus)


def _with_invalid(batch: SourceBatch, corpus: Corpus) -> SourceBatch:
    """`batch` with the rows that were left out since the one before."""
    batch.invalid.take(corpus.invalid)
    return batch


def _whole(document: Document) -> Iterator[Piece]:
    content = "".join(document.parts) if document.messages is None else document.messages
    yield Piece(content, document.split, document.where)


def _chunks(document: Document) -> Iterator[Piece]:
    """A text in chunks that encode as the whole would, the last of which ends it."""
    if document.messages is not None:
        yield Piece(document.messages, document.split, document.where)
        return
    chunks = chunk_text(document.parts)
    chunk, starts = next(chunks, ""), True
    for following in chunks:
        yield Piece(chunk, document.split, document.where, starts, ends=False)
        chunk, starts = following, False
    yield Piece(chunk, document.split, document.where, starts)
