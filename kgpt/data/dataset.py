"""Data sets for `model.fit`: Keras `PyDataset`s over memory-mapped token shards.

They are vectorised and cost a fraction of a millisecond a batch, so Keras's worker processes are
not needed. Pass them to `fit` with `shuffle=False`: their order is already random, and fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgpt.data.corruption import InputCorruption
from kgpt.data.sampler import (
    Batch,
    LengthBucketSampler,
    PackedSampler,
    evaluation_batch,
    num_evaluation_batches,
)
from kgpt.data.shards import TokenDataset
from kgpt.errors import DataError


class TrainDataset(keras.utils.PyDataset):
    """Batches of a training run, from `start_batch` on: (inputs, targets), each (B, T) int32.

    With `assistant_only_loss` there are weights, too: (B, T) float32.

    Args:
        data: an open `TokenDataset`, or its folder.
        batch_size: B.
        length: T.
        num_batches: how many batches there are.
        seed: of order and corruption.
        start_batch: number of the first; not 0 when a run is resumed.
        token_dropout: share of inputs replaced by the end-of-text token.
        token_replacement: share of inputs replaced by random tokens.
        assistant_only_loss: of conversations, learn only the assistant's turns.
    """

    def __init__(
        self,
        data: TokenDataset | Path | str,
        batch_size: int,
        length: int,
        num_batches: int,
        seed: int = 0,
        start_batch: int = 0,
        token_dropout: float = 0.0,
        token_replacement: float = 0.0,
        assistant_only_loss: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        data = _opened(data)
        corruption = None
        if token_dropout or token_replacement:
            corruption = InputCorruption(
                token_dropout,
                token_replacement,
                mask_id=data.tokenizer.eos_id or 0,
                vocab_size=data.manifest.vocab_size,
            )
        loss_mask = data.loss_mask("train") if assistant_only_loss else None
        self.sampler = PackedSampler(
            data.tokens("train"), length, batch_size, seed, corruption, loss_mask
        )
        self._num_batches, self.start_batch = num_batches, start_batch
        self.vocab_size, self.length = data.manifest.vocab_size, length

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return self.sampler.batch(self.start_batch + index)


class EvaluationDataset(keras.utils.PyDataset):
    """A whole split, or its first `limit` batches: (inputs, targets, weights), each (B, T).

    Every token but the first is a target once; padding has weight 0, and with `assistant_only_loss`
    so has everything but the assistant's turns.

    Raises `DataError` if the split is empty.
    """

    def __init__(
        self,
        data: TokenDataset | Path | str,
        batch_size: int,
        length: int,
        split: str = "val",
        limit: int | None = None,
        assistant_only_loss: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        data = _opened(data)
        self.stream = data.tokens(split)
        self.loss_mask = data.loss_mask(split) if assistant_only_loss else None
        if len(self.stream) < 2:
            raise DataError(
                f"The {split} part of {data.folder} is empty; prepare the data set again "
                "with a larger --val-fraction, or train with --train.eval-every 0."
            )
        self.length, self.batch_size = length, batch_size
        self.vocab_size = data.manifest.vocab_size
        whole = num_evaluation_batches(self.stream, length, batch_size)
        self._num_batches = min(whole, limit or whole)

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> Batch:
        return evaluation_batch(self.stream, self.length, self.batch_size, index, self.loss_mask)


class DocumentDataset(keras.utils.PyDataset):
    """Whole documents, such as conversations: (inputs, targets, weights), each (B, L).

    Documents of similar length share a batch, so L differs from batch to batch and little is
    padding, of weight 0. See `LengthBucketSampler` for the order.

    Args:
        data: an open `TokenDataset`, or its folder.
        batch_size: B.
        length: the largest L; longer documents are truncated.
        num_batches: how many batches there are.
        seed: of the order.
        start_batch: number of the first; not 0 when a run is resumed.
        split: "train" or "val".
        assistant_only_loss: of conversations, learn only the assistant's turns.
    """

    def __init__(
        self,
        data: TokenDataset | Path | str,
        batch_size: int,
        length: int,
        num_batches: int,
        seed: int = 0,
        start_batch: int = 0,
        split: str = "train",
        assistant_only_loss: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        data = _opened(data)
        loss_mask = data.loss_mask(split) if assistant_only_loss else None
        offsets = data.document_offsets(split)
        self.sampler = LengthBucketSampler(
            data.tokens(split), offsets, length, batch_size, seed, loss_mask
        )
        self._num_batches, self.start_batch = num_batches, start_batch
        self.vocab_size, self.length = data.manifest.vocab_size, length

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> Batch:
        return self.sampler.batch(self.start_batch + index)


def _opened(data: TokenDataset | Path | str) -> TokenDataset:
    return data if isinstance(data, TokenDataset) else TokenDataset(data)
