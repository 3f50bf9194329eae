"""The documents of an evaluation: texts and conversations, and how a model's tokenizer reads them.

Bytes and words are counted from the text, so they do not depend on the tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kgpt.config import EvaluationConfig
from kgpt.conversations import Message, is_learned
from kgpt.data.conversation_encoder import ConversationEncoder
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import Tokenizer, clean

ENCODE_AT_ONCE = 1 << 22  # characters


@dataclass(frozen=True)
class Document:
    """A text or a conversation to be predicted.

    Attributes:
        text: what counts: of a conversation, what the assistant says.
        messages: of a conversation; of one in a data set its tokens are known alone.
        token_ids, loss_mask: the tokens in a data set, and which of them count (None: all).
        tokenizer: that of the data set.
        where: its place, for errors.
    """

    text: str
    messages: Sequence[Message] | None = None
    token_ids: np.ndarray | None = None
    loss_mask: np.ndarray | None = None
    tokenizer: Tokenizer | None = None
    where: str = "the document"

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes."""
        return len(clean(self.text).encode())

    @property
    def num_words(self) -> int:
        """What white space separates."""
        return len(self.text.split())


@dataclass(frozen=True)
class EncodedDocument:
    """A document as a model reads it.

    Attributes:
        token_ids: (L,) int32.
        loss_mask: (L,) bool, which tokens count; never the first, which nothing precedes.
        num_words, num_bytes: of the document.
    """

    token_ids: np.ndarray
    loss_mask: np.ndarray
    num_words: int
    num_bytes: int


def read_documents(config: EvaluationConfig) -> list[Document]:
    """The documents of `config.data`, in a fixed order, `config.limit` of them at most.

    Raises:
        UsageError: a source does not exist. DataError: there are no documents, or one is damaged.
    """
    found: Iterator[Document] = (
        document for source in _sources(config) for document in _documents(source, config)
    )
    documents = list(islice(found, config.limit))
    if not documents:
        raise DataError(f"{', '.join(config.data)} holds no text to evaluate on; give more.")
    return documents


def fingerprint(documents: Sequence[Document]) -> str:
    """SHA-256 of the contents, wherever they come from."""
    digest = hashlib.sha256()
    for document in documents:
        mask = document.loss_mask
        content = document.messages or (None if mask is None else document.token_ids)
        content = content.tolist() if isinstance(content, np.ndarray) else content
        digest.update(repr((document.text, content)).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _sources(config: EvaluationConfig) -> Iterator[TokenDataset | Corpus]:
    """Data sets, and all files between two of them together."""
    files: list[str] = []
    for source in config.data:
        if not (Path(source) / "manifest.json").is_file():
            files.append(source)
            continue
        yield TokenDataset(source)
    if files:
        yield Corpus(files, config.text_field, config.separator, val_fraction=0.0)


def _documents(source: TokenDataset | Corpus, config: EvaluationConfig) -> Iterator[Document]:
    if isinstance(source, TokenDataset):
        splits = ("train", "val") if config.split == "all" else (config.split,)
        for split in splits:
            yield from _of_split(source, split)
        return
    for document in source.documents():
        if document.messages is None:
            text = "".join(document.parts)
            if text:
                yield Document(text, where=document.where)
        else:
            learned = [m["content"] for m in document.messages if is_learned(m)]
            yield Document("".join(learned), document.messages, where=document.where)


def _of_split(data: TokenDataset, split: str) -> Iterator[Document]:
    """The documents of a data set, without the end-of-text tokens between them."""
    tokenizer, stream, loss_mask = data.tokenizer, data.tokens(split), data.loss_mask(split)
    ends = [*data.document_offsets(split).astype("int64")[1:].tolist(), len(stream)]
    for start, end in zip(data.document_offsets(split).tolist(), ends, strict=True):
        places = np.arange(start, end)
        ids = stream.take(places)
        mask = None if loss_mask is None else loss_mask.take(places).astype(bool)
        if ids.size and ids[-1] == tokenizer.eos_id:
            ids, mask = ids[:-1], None if mask is None else mask[:-1]
        if ids.size:
            text = tokenizer.decode((ids if mask is None else ids[mask]).tolist(), True)
            yield Document(text, None, ids, mask, tokenizer, f"document {start} of {data.folder}")


class DocumentEncoder:
    """Documents as the tokens of one model.

    Args:
        tokenizer: of the model.
        first_token: the first token of a text counts; the token that begins documents precedes it,
            the tokenizer's BOS or end-of-text token.
    """

    def __init__(self, tokenizer: Tokenizer, first_token: bool = True):
        self.tokenizer = tokenizer
        eos = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
        self._start = tokenizer.bos_ids or (eos if first_token else [])
        self._first_token = first_token
        self._conversations: ConversationEncoder | None = None

    def encode(self, documents: Sequence[Document]) -> Iterator[EncodedDocument]:
        """Each document; texts are encoded many at a time.

        Raises:
            DataError: the model cannot read a conversation.
        """
        batch: list[Document] = []
        for document in documents:
            batch.append(document)
            if sum(len(waiting.text) for waiting in batch) >= ENCODE_AT_ONCE:
                yield from self._encode(batch)
                batch = []
        yield from self._encode(batch)

    def _encode(self, documents: Sequence[Document]) -> Iterator[EncodedDocument]:
        texts = [document.text for document in documents if self._is_text(document)]
        encoded = iter(self.tokenizer.encode_batch(texts))
        for document in documents:
            is_text = self._is_text(document)
            ids, mask = self._with_start(next(encoded)) if is_text else self._known(document)
            mask[:1] = [False] * len(mask[:1])
            yield EncodedDocument(
                np.asarray(ids, "int32"), np.asarray(mask, bool),
                document.num_words, document.num_bytes,
            )  # fmt: skip

    def _is_text(self, document: Document) -> bool:
        """Whether the document is encoded from its text."""
        if document.messages is not None or document.loss_mask is not None:
            return False
        return document.token_ids is None or not self._is_mine(document)

    def _is_mine(self, document: Document) -> bool:
        theirs = document.tokenizer
        return theirs is not None and theirs.fingerprint == self.tokenizer.fingerprint

    def _with_start(self, ids: Sequence[int]) -> tuple[list[int], list[bool]]:
        mask = [*[False] * len(self._start), *[True] * len(ids)]
        if ids and not self._first_token:
            mask[len(self._start)] = False
        return [*self._start, *ids], mask

    def _known(self, document: Document) -> tuple[list[int], list[bool]]:
        """The tokens of a conversation, or those that a data set has."""
        if document.messages is not None:
            return self._conversation(document.messages, document.where)
        assert document.token_ids is not None
        if document.loss_mask is None:
            return self._with_start(document.token_ids.tolist())
        if not self._is_mine(document):
            raise UsageError(
                "The conversations of the data set were prepared with another tokenizer than the "
                "model's; give the files that they come from."
            )
        return document.token_ids.tolist(), document.loss_mask.tolist()

    def _conversation(self, messages: Sequence[Message], where: str) -> Any:
        self._conversations = self._conversations or ConversationEncoder(self.tokenizer)
        encoded = self._conversations.encode(messages, where)
        assert encoded is not None  # what cannot be encoded is refused
        return encoded
