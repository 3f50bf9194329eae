"""Batches of documents to token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kgpt.config import DocumentSelectionConfig
from kgpt.data.conversation_encoder import ConversationEncoder, Truncate
from kgpt.data.deduplication import key_function
from kgpt.data.document_filters import DocumentFilters
from kgpt.data.encoded_batch import SPLITS, UNDECIDED, EncodedBatch
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.source_batches import Piece, SourceBatch
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer

_Ids = tuple[list[int], list[bool] | None]  # and the loss mask; None if all count
_Encoded = tuple[Piece, list[int], list[bool] | None]


@dataclass(frozen=True)
class EncodingOptions:
    """How documents become ids, beside the tokenizer.

    Attributes:
        dtype: of the ids.
        masked: whether there are conversations, which have a loss mask.
        ends_texts: whether the end-of-text token follows a text.
        max_length, truncate, skip_invalid: of conversations, see `ConversationEncoder`.
        selection: which documents are left out.
    """

    dtype: str
    masked: bool
    ends_texts: bool = True
    max_length: int | None = None
    truncate: Truncate = "keep-start"
    skip_invalid: bool = False
    selection: DocumentSelectionConfig = field(default_factory=DocumentSelectionConfig)


def make_encoder(tokenizer: Tokenizer, options: EncodingOptions) -> BatchEncoder:
    conversations = None
    if options.masked:
        invalid = InvalidRows(options.skip_invalid)
        conversations = ConversationEncoder(
            tokenizer, options.max_length, options.truncate, invalid
        )
    eos_id = tokenizer.eos_id
    end = [eos_id] if options.ends_texts and eos_id is not None else []
    return BatchEncoder(tokenizer, options.dtype, conversations, end, options.selection)


class BatchEncoder:
    """Encodes batches, each on its own.

    Args:
        dtype: of the ids.
        conversations: encodes conversations; None refuses them.
        end: ids after each text.
        selection: which documents are left out; duplicates only get their keys.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dtype: str,
        conversations: ConversationEncoder | None,
        end: list[int],
        selection: DocumentSelectionConfig,
    ):
        self._tokenizer, self._dtype = tokenizer, np.dtype(dtype)
        self._conversations, self._end = conversations, end
        self._filters, self._key = DocumentFilters(selection), key_function(selection)

    def encode(self, batch: SourceBatch) -> EncodedBatch:
        """The ids of a batch.

        Raises:
            DataError: a conversation cannot be used, and such ones are not skipped.
        """
        counts: Counter[str] = Counter()
        encoded = self._encode(batch, self._kept(batch, counts), counts)
        counts["invalid_rows"] = batch.invalid.count
        masks = [mask or [True] * len(ids) for _, ids, mask in encoded if self._conversations]
        return EncodedBatch(
            number=batch.number,
            ids=_joined([ids for _, ids, _ in encoded], self._dtype),
            loss_mask=_joined(masks, np.dtype("uint8")),
            lengths=np.array([len(ids) for _, ids, _ in encoded], np.int64),
            text_bytes=np.array([_text_bytes(piece) for piece, _, _ in encoded], np.int64),
            starts=np.array([piece.starts for piece, _, _ in encoded], bool),
            splits=np.array([_split_index(piece) for piece, _, _ in encoded], np.int8),
            keys=self._keys([piece for piece, _, _ in encoded]),
            counts=+counts,
            invalid=batch.invalid.first,
        )

    def _kept(self, batch: SourceBatch, counts: Counter[str]) -> list[Piece]:
        """The pieces of a batch that the filters keep."""
        kept = []
        for piece in batch.pieces:
            rule = self._filters.rule_against(piece.text) if self._filters else None
            if rule is None:
                kept.append(piece)
            else:
                counts[rule] += 1
        return kept

    def _keys(self, pieces: list[Piece]) -> np.ndarray:
        """(documents, width): what duplicates are found by."""
        if self._key is None or not pieces:
            return np.zeros((0, 0), np.uint8)
        return np.stack([self._key(piece.text) for piece in pieces])

    def _encode(
        self, batch: SourceBatch, pieces: list[Piece], counts: Counter[str]
    ) -> list[_Encoded]:
        """`pieces` of a batch that can be encoded, with ids and loss mask."""
        texts = [piece.content for piece in pieces if isinstance(piece.content, str)]
        ids_of_texts = iter(self._tokenizer.encode_batch(texts))
        encoded: list[_Encoded] = []
        for piece in pieces:
            if isinstance(piece.content, str):
                ids = next(ids_of_texts) + (self._end if piece.ends else [])
                found: _Ids | None = (ids, None)
            else:
                found = self._encode_conversation(piece)
            if found is not None and (found[0] or not piece.starts):
                encoded.append((piece, *found))
        if self._conversations is not None:
            batch.invalid.take(self._conversations.invalid)
            counts.update(self._conversations.take_counts())
        return encoded

    def _encode_conversation(self, piece: Piece) -> _Ids | None:
        assert not isinstance(piece.content, str)
        if self._conversations is None:
            raise DataError(
                f"{piece.where}: the file begins with texts and goes on with conversations; "
                "give conversations a file of their own."
            )
        return self._conversations.encode(piece.content, piece.where)


def _joined(rows: Sequence[Sequence[int]], dtype: np.dtype[Any]) -> np.ndarray:
    arrays = [np.array(row, dtype) for row in rows]
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)


def _text_bytes(piece: Piece) -> int:
    if isinstance(piece.content, str):
        return _utf8_bytes(piece.content)
    return sum(_utf8_bytes(message["content"]) for message in piece.content)


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _split_index(piece: Piece) -> int:
    return UNDECIDED if piece.split is None else SPLITS.index(piece.split)
