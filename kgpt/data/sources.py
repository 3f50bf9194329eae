"""The documents of text files and files of rows: texts and conversations.

Files are streamed: the text of a document comes in parts, so files can be larger than memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from kgpt.conversations import Message
from kgpt.data.encodings import open_file
from kgpt.data.hub import HubOptions
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.recognition import DEFAULT_FIELD, RowFormat, conversation_of, recognize_rows
from kgpt.data.rows import ROW_FORMATS, read_rows
from kgpt.data.source_files import TEXT_FORMATS, SourceFiles, format_of, short_name
from kgpt.errors import DataError
from kgpt.formatting import size as size_text
from kgpt.text.chunking import chunk_text

PART_BYTES = 1 << 20  # read at a time
FEW_FILES = 100  # texts of fewer files are each split by position
Split = Literal["train", "val"]


@dataclass
class Document:
    """A text or a conversation.

    Attributes:
        split: set if the source determines it.
        where: its place, such as "a.jsonl, line 3"; empty for a text file.
    """

    parts: Iterator[str] = field(default_factory=lambda: iter(()))
    messages: list[Message] | None = None
    split: Split | None = None
    where: str = ""

    def joined(self) -> str:
        """The text, or that of all messages, one below the other; it is then in memory."""
        if self.messages is not None:
            return "\n".join(message["content"] for message in self.messages)
        text = "".join(self.parts)
        self.parts = iter([text])
        return text


class Corpus:
    """The documents of a list of sources, in a fixed order.

    Args:
        sources: see `SourceFiles`.
        text_field: the field or column of rows with the text. A row without it may be a
            conversation: see `kgpt.conversations`.
        separator: string between documents in .txt and .md files; None: one document a file.
        val_fraction: share of each text that is split by position, at its end, that is its
            validation split.
        encoding: of all text files; None detects it for each.
        hub: what is loaded of a data set of the Hub.
        skip_invalid: leave out rows that cannot be used; without it the first one is refused.

    Attributes:
        invalid: the rows left out since `documents` began.
        names: the files, as they were named.
        notes: what was recognized, a line for each file of rows: encodings, formats, counts.
    """

    def __init__(
        self,
        sources: Sequence[str],
        text_field: str = DEFAULT_FIELD,
        separator: str | None = None,
        val_fraction: float = 0.1,
        encoding: str | None = None,
        hub: HubOptions | None = None,
        skip_invalid: bool = False,
    ):
        self.invalid = InvalidRows(skip_invalid)
        self.text_field = text_field
        self.separator = separator
        self.val_fraction = val_fraction
        self._sources = SourceFiles(sources, encoding, hub)
        self.names, self.files = self._sources.names, self._sources.files
        self.notes = list(self._sources.notes)
        self.total_bytes = self._sources.total_bytes
        self.bytes_read = 0
        self._formats = {file: self._recognize(file, name) for file, name in self._sources}
        self._note_texts()

    @property
    def is_split_by_position(self) -> bool:
        """True if the files are few texts: the end of each is then its validation split.

        Whole files would not give the wanted fraction.
        """
        is_text = all(format_of(file) in TEXT_FORMATS for file in self.files)
        return is_text and self.separator is None and len(self.files) < FEW_FILES

    @property
    def is_one_text(self) -> bool:
        """True if there is a single text, which needs no token at its end."""
        return len(self.files) == 1 and self.is_split_by_position

    @property
    def has_conversations(self) -> bool:
        """True if the first row of some file is a conversation."""
        return any(found and found.conversations for found in self._formats.values())

    def documents(self) -> Iterator[Document]:
        """Every document once; consume the parts of one before taking the next."""
        self.bytes_read = 0
        self.invalid.clear()
        for file, name in self._sources:
            before = self.bytes_read
            if format_of(file) in ROW_FORMATS:
                yield from self._rows(file, name)
            elif self.is_split_by_position:
                yield from self._split_by_position(file)
            else:
                yield from self._separated(file)
            self.bytes_read = before + file.stat().st_size

    def texts(self, rejects: Callable[[str], bool] | None = None) -> Iterator[str]:
        """All text, in chunks, to train a tokenizer on.

        The validation split of texts that are split by position is left out, and so are documents
        that `rejects` is true for.
        """
        for document in self.documents():
            if document.split == "val":
                continue
            if rejects is not None and rejects(document.joined()):
                continue
            for message in document.messages or ():
                yield message["content"]
            yield from chunk_text(document.parts)

    # -- texts ------------------------------------------------------------------------------

    def _separated(self, file: Path) -> Iterator[Document]:
        """The documents between separators; the whole file without one."""
        with open_file(file) as raw:
            text = self._decode(raw)
            if self.separator is None:
                yield Document(text)
            else:
                yield from (Document(iter([part])) for part in _split(text, self.separator))

    def _split_by_position(self, file: Path) -> Iterator[Document]:
        """One text as two documents: the beginning for training, the end for validation."""
        size = file.stat().st_size
        with open_file(file) as raw:
            cut = _character_boundary(raw, int(size * (1 - self.val_fraction)))
            raw.seek(0)
            yield Document(self._decode(raw, cut), split="train")
            raw.seek(cut)
            if cut < size:
                yield Document(self._decode(raw), split="val")

    def _decode(self, raw: BinaryIO, length: int | None = None) -> Iterator[str]:
        """Text of the next `length` bytes of UTF-8 (None: all), in parts."""
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        left = length
        while data := raw.read(PART_BYTES if left is None else min(PART_BYTES, left)):
            self.bytes_read += len(data)
            left = None if left is None else left - len(data)
            yield utf8.decode(data)
        if rest := utf8.decode(b"", final=True):
            yield rest

    # -- rows -------------------------------------------------------------------------------

    def _rows(self, file: Path, name: str) -> Iterator[Document]:
        start, found = self.bytes_read, self._formats[file]
        field = found.text_field if found else self.text_field
        for row, where, end in read_rows(file, format_of(file), short_name(name), self.invalid):
            self.bytes_read = start + end
            try:
                document = _document(row, where, field)
            except DataError as error:
                self.invalid.add(error)
                continue
            if document is not None:
                yield document

    def _recognize(self, file: Path, name: str) -> RowFormat | None:
        """The format of a file of rows, which is noted; None for a text."""
        if format_of(file) not in ROW_FORMATS:
            return None
        kind, called = format_of(file), short_name(name)
        found = recognize_rows(file, kind, called, self.text_field, self.invalid)
        self.notes.append(f"{name}: {found.summary}")
        return found

    def _note_texts(self) -> None:
        """Note the number and size of the files that are texts."""
        texts = [file for file, found in self._formats.items() if found is None]
        names = [name for file, name in self._sources if self._formats[file] is None]
        if texts:
            what = f"{names[0]}: text" if len(texts) == 1 else f"{len(texts):,} text files"
            cut = f", documents separated by {self.separator!r}" if self.separator else ""
            self.notes.append(
                f"{what}, {size_text(sum(file.stat().st_size for file in texts))}{cut}"
            )


def _document(row: Mapping[str, Any], where: str, text_field: str) -> Document | None:
    """The text or conversation of a row; None if its text is missing, as in a null cell."""
    text = row.get(text_field)
    if isinstance(text, str):
        return Document(iter([text]), where=where)
    conversation = conversation_of(row, where)
    if conversation is not None:
        return Document(messages=conversation[1], where=where)
    if text is None and text_field in row:
        return None
    kind = "no text" if text is None else f"{type(text).__name__}, not text,"
    raise DataError(
        f"{where} has {kind} in the field {text_field!r}; "
        f"choose one with --field (its fields: {', '.join(row)})."
    )


def _character_boundary(raw: BinaryIO, offset: int) -> int:
    """The first offset from `offset` on at which a UTF-8 character begins."""
    raw.seek(offset)
    for extra, byte in enumerate(raw.read(4)):
        if byte & 0xC0 != 0x80:
            return offset + extra
    return offset


def _split(text: Iterator[str], separator: str) -> Iterator[str]:
    """Split a stream of text at a separator; blank documents are left out."""
    rest = ""
    for part in text:
        *documents, rest = (rest + part).split(separator)
        yield from (document for document in documents if document.strip())
    if rest.strip():
        yield rest
