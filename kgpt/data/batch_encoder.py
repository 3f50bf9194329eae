"""Batches of documents to token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgpt.data.conversation_encoder import ConversationEncoder, Truncate
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
    """

    dtype: str
    masked: bool
    ends_texts: bool = True
    max_length: int | None = None
    truncate: Truncate = "keep-start"
    skip_invalid: bool = False


def make_encoder(tokenizer: Tokenizer, options: EncodingOptions) -> BatchEncoder:
    conversations = None
    if options.masked:
        invalid = InvalidRows(options.skip_invalid)
        conversations = ConversationEncoder(
            tokenizer, options.max_length, options.truncate, invalid
        )
    eos_id = tokenizer.eos_id
    end = [eos_id] if options.ends_texts and eos_id is not None else []
    return BatchEncoder(tokenizer, options.dtype, conversations, end)


class BatchEncoder:
    """Encodes batches, each on its own.

    Args:
        dtype: of the ids.
        conversations: encodes conversations; None refuses them.
        end: ids after each text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        dtype: str,
        conversations: ConversationEncoder | None,
        end: list[int],
    ):
        self._tokenizer, self._dtype = tokenizer, np.dtype(dtype)
        self._conversations, self._end = conversations, end

    def encode(self, batch: SourceBatch) -> EncodedBatch:
        """The ids of a batch.

        Raises:
            DataError: a conversation cannot be used, and such ones are not skipped.
        """
        counts: Counter[str] = Counter()
        encoded = self._encode(batch, counts)
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
            counts=+counts,
            invalid=batch.invalid.first,
        )

    def _encode(self, batch: SourceBatch, counts: Counter[str]) -> list[_Encoded]:
        """The pieces of a batch that are left, with ids and loss mask."""
        texts = [piece.content for piece in batch.pieces if isinstance(piece.content, str)]
        ids_of_texts = iter(self._tokenizer.encode_batch(texts))
        encoded: list[_Encoded] = []
        for piece in batch.pieces:
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
