"""Data sets for `model.fit`: Keras `PyDataset`s over memory-mapped token shards.

They are vectorised and cost a fraction of a millisecond a batch, so Keras's worker processes are
not needed. Pass them to `fit` with `shuffle=False`: their order is already random, and fixed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kgpt.config.training import Packing
from kgpt.data.corruption import InputCorruption
from kgpt.data.packing import Sampler, make_sampler
from kgpt.data.sampler import ALL, PackedSampler, evaluation_batch, num_evaluation_batches
from kgpt.data.shards import TokenDataset
from kgpt.errors import DataError


class TrainDataset(keras.utils.PyDataset):
    """Batches of a training run, from `start_batch` on.

    `packing` says what a batch is:

    - "stream": (inputs, targets), each (B, T) int32, windows of all texts in a row; with
      `assistant_only_loss` weights, too, (B, T) float32. See `PackedSampler`.
    - "documents": ({"token_ids", "segment_ids"}, targets, weights), each (B, T): whole documents,
      such as conversations, several in a row, which a `kgpt.GPT` keeps apart. See
      `PackedDocumentSampler`.
    - "none": (inputs, targets, weights), each (B, L): a document in each row. Documents of similar
      length share a batch, so L differs from batch to batch. See `LengthBucketSampler`.

    Args:
        data: an open `TokenDataset`, or its folder.
        batch_size: B.
        length: T, or the largest L; longer documents are truncated.
        num_batches: how many batches there are.
        seed: of order and corruption.
        start_batch: number of the first; not 0 when a run is resumed.
        token_dropout: share of inputs replaced by the end-of-text token.
        token_replacement: share of inputs replaced by random tokens.
        assistant_only_loss: of conversations, learn only the assistant's turns.
        packing: see above.
        source_batch: the number of the batch that is made as the nth; n if not given.
        rows: the rows of each batch that are made; the others are made by other processes.
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
        packing: Packing = "stream",
        source_batch: Callable[[int], int] | None = None,
        rows: slice = ALL,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        data = _opened(data)
        self.source_batch, self.rows = source_batch or (lambda number: number), rows
        self.corruption: InputCorruption | None = None
        if token_dropout or token_replacement:
            self.corruption = InputCorruption(
                token_dropout,
                token_replacement,
                mask_id=data.tokenizer.eos_id or 0,
                vocab_size=data.manifest.vocab_size,
            )
        options = (length, batch_size, seed, assistant_only_loss)
        self.sampler: Sampler = make_sampler(data, "train", packing, *options)
        self._num_batches, self.start_batch, self.seed = num_batches, start_batch, seed
        self.vocab_size, self.length = data.manifest.vocab_size, length

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        number = self.source_batch(self.start_batch + index)
        inputs, *rest = self.sampler.batch(number, self.rows)
        if self.corruption is None:
            return inputs, *rest
        if isinstance(inputs, dict):
            return {**inputs, "token_ids": self._corrupted(inputs["token_ids"], number)}, *rest
        return self._corrupted(inputs, number), *rest

    def _corrupted(self, inputs: np.ndarray, number: int) -> np.ndarray:
        assert self.corruption is not None
        return self.corruption(inputs, self.seed, number, self.sampler.batch_size, self.rows)


class EvaluationDataset(keras.utils.PyDataset):
    """A whole split, or its first `limit` batches: (inputs, targets, weights), as in training.

    With packing "stream" every token but the first is a target once, in order; otherwise every
    token of a document but its first, up to `length` tokens of each, in an order that is always the
    same. Padding has weight 0, and with `assistant_only_loss` so has everything but the assistant's
    turns. `rows` is as in `TrainDataset`.

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
        packing: Packing = "stream",
        rows: slice = ALL,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        data = _opened(data)
        stream = data.tokens(split)
        if len(stream) < 2:
            raise DataError(
                f"The {split} part of {data.folder} is empty; prepare the data set again "
                "with a larger --val-fraction, or train with --train.eval-every 0."
            )
        self.length, self.batch_size = length, batch_size
        self.vocab_size = data.manifest.vocab_size
        self._batch: Callable[[int], tuple[Any, ...]]
        if packing == "stream":
            loss_mask = data.loss_mask(split) if assistant_only_loss else None
            whole = num_evaluation_batches(stream, length, batch_size)
            self._batch = lambda index: evaluation_batch(
                stream, length, batch_size, index, loss_mask, rows
            )
        else:
            options = (length, batch_size, 0, assistant_only_loss)
            sampler = make_sampler(data, split, packing, *options)
            assert not isinstance(sampler, PackedSampler)
            whole = sampler.num_evaluation_batches
            self._batch = functools.partial(sampler.evaluation_batch, rows=rows)
        self._num_batches = min(whole, limit or whole)

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self._batch(index)


def _opened(data: TokenDataset | Path | str) -> TokenDataset:
    return data if isinstance(data, TokenDataset) else TokenDataset(data)
