"""Conversations for `model.fit`, encoded in memory by the model's own chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from kgpt.conversations import Message
from kgpt.data.conversation_encoder import ConversationEncoder, Truncate
from kgpt.data.invalid_rows import InvalidRows
from kgpt.data.packing import PackedBatch, PackedDocumentSampler
from kgpt.data.recognition import conversation_of
from kgpt.data.sampler import Batch, LengthBucketSampler
from kgpt.data.shards import TokenStream
from kgpt.data.source_files import SourceFiles
from kgpt.data.split_assembly import validation_documents
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer

Conversation = Sequence[Message] | Mapping[str, Any]  # messages, or a row that has them


class ChatDataset(keras.utils.PyDataset):
    """Batches of conversations: (inputs, targets, weights), to `fit` with `shuffle=False`.

    Weights (B, T) are 1 for targets that the assistant generates, by the chat template of the
    tokenizer. With length buckets, inputs are token ids (B, T) and T is that of the batch; with
    packing they are {"token_ids", "segment_ids"}, each (B, T), and T is `length`.

    >>> hello = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    >>> data = ChatDataset([hello] * 3, Tokenizer.of_bytes(), batch_size=3, length=64)
    >>> inputs, targets, weights = data[0]
    >>> inputs.shape, int(weights.sum())  # six letters and the end of the turn, three times
    ((3, 32), 21)

    Args:
        conversations: files of rows as for `kgpt data prepare` (a name or several), or
            conversations: lists of messages, or rows in one of the formats of
            `kgpt.conversations`.
        tokenizer: the model's, or the model's folder.
        batch_size: B.
        length: the largest T, such as the model's `max_length`.
        packing: pack several conversations into a row; without it, conversations of similar length
            share a batch.
        shuffle: another order in each epoch; without it the same one, for validation.
        seed: of the order.
        assistant_only_loss: False learns every token.
        truncate: what happens to longer conversations, see `ConversationEncoder`.
        skip_invalid: leave out conversations that cannot be used, instead of refusing the first.
        split: "train" or "val" takes only the conversations of that split, of which "val" has
            `val_fraction`; None takes all.

    Attributes:
        sampler: the batches as a function of their number, over all epochs.
        num_conversations: how many there are.
        truncated, too_long: how many longer ones were cut, or left out.
        invalid: those that cannot be used, see `InvalidRows`.

    Raises:
        DataError: a conversation cannot be used, or none is left.
    """

    def __init__(
        self,
        conversations: str | Path | Iterable[str | Path] | Iterable[Conversation],
        tokenizer: Tokenizer | str | Path,
        batch_size: int,
        length: int,
        packing: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        assistant_only_loss: bool = True,
        truncate: Truncate = "keep-start",
        skip_invalid: bool = False,
        split: Literal["train", "val"] | None = None,
        val_fraction: float = 0.1,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
        self.invalid = InvalidRows(skip_invalid)
        # A row of `length` inputs has one more token, its last target.
        encoder = ConversationEncoder(tokenizer, length + 1, truncate, self.invalid)
        read = _messages(conversations, self.invalid)
        encoded = [one for where, messages in read if (one := encoder.encode(messages, where))]
        if split is not None:
            validates = validation_documents(val_fraction, len(encoded))
            encoded = [one for one in encoded if next(validates) == (split == "val")]
        if not encoded:
            raise DataError("There is no conversation to learn from.")
        self.num_conversations = len(encoded)
        self.truncated, self.too_long = encoder.truncated, encoder.too_long
        ids, masks = (np.concatenate(arrays) for arrays in zip(*map(_arrays, encoded), strict=True))
        sampler = PackedDocumentSampler if packing else LengthBucketSampler
        self.sampler: PackedDocumentSampler | LengthBucketSampler = sampler(
            TokenStream([ids], tokenizer.vocab_size),
            np.cumsum([0, *(len(one[0]) for one in encoded[:-1])]),
            length,
            batch_size,
            seed,
            TokenStream([masks]) if assistant_only_loss else None,
        )
        self.shuffle, self.epoch = shuffle, 0
        self.vocab_size, self.length = tokenizer.vocab_size, length

    def __len__(self) -> int:
        """Batches in an epoch."""
        if isinstance(self.sampler, PackedDocumentSampler):
            return self.sampler.num_evaluation_batches
        return self.sampler.per_epoch

    def __getitem__(self, index: int) -> Batch | PackedBatch:
        if isinstance(self.sampler, PackedDocumentSampler) and not self.shuffle:
            return self.sampler.evaluation_batch(index)
        return self.sampler.batch(self.epoch * len(self) + index)

    def on_epoch_end(self) -> None:
        """Called by Keras: the next epoch has another order."""
        self.epoch += self.shuffle


def _messages(
    conversations: str | Path | Iterable[str | Path] | Iterable[Conversation], invalid: InvalidRows
) -> Iterator[tuple[str, Sequence[Message]]]:
    """Each conversation that can be used, after its place."""
    given = [conversations] if isinstance(conversations, str | Path) else list(conversations)
    names = [str(one) for one in given if isinstance(one, str | Path)]
    if names:
        rows: Iterable[tuple[Any, str]] = (row[:2] for row in SourceFiles(names).rows(invalid))
    else:
        rows = ((one, f"conversation {number}") for number, one in enumerate(given, 1))
    for row, where in rows:
        row = row if isinstance(row, Mapping) else {"messages": list(row)}
        try:
            found = conversation_of(row, where)
            if found is None:
                raise DataError(f"{where} is no conversation (its fields: {', '.join(row)}).")
        except DataError as error:
            invalid.add(error)
        else:
            yield where, found[1]


def _arrays(encoded: tuple[list[int], list[bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(encoded[0], np.int32), np.array(encoded[1], np.uint8)
