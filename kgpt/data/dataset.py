"""Data sets as Keras sees them: `PyDataset`s over the windows of memory-mapped shards.

They are vectorised and cost a fraction of a millisecond a batch, so Keras's worker processes are
not needed. Pass them to `fit` with `shuffle=False`: their order is already random, and fixed.
"""

from __future__ import annotations

import keras

from kgpt.data.corruption import InputCorruption
from kgpt.data.length_buckets import LengthBucketSampler
from kgpt.data.sampler import PackedSampler, evaluation_batch, num_evaluation_batches
from kgpt.data.shards import TokenDataset
from kgpt.errors import DataError


class TrainDataset(keras.utils.PyDataset):
    """Batches of a training run, from `start_batch` on: (inputs, targets), each (B, T) int32.

    With `assistant_only_loss` there are weights, too: (B, T) float32.

    Args:
        data: an open `TokenDataset`, or its folder.
        batch_size: B.
        length: T.
        seed: of order and noise.
        num_batches: how many batches there are.
        start_batch: number of the first; not 0 when a run is resumed.
        token_dropout: share of inputs hidden behind the end-of-text token.
        token_replacement: share of inputs replaced by random tokens.
        assistant_only_loss: of conversations, learn only what the assistant says.
    """

    def __init__(
        self,
        data,
        batch_size,
        length,
        num_batches,
        seed=0,
        start_batch=0,
        token_dropout=0.0,
        token_replacement=0.0,
        assistant_only_loss=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, TokenDataset) else TokenDataset(data)
        noise = None
        if token_dropout or token_replacement:
            mask_id = data.tokenizer.eos_id or 0
            noise = InputCorruption(
                token_dropout, token_replacement, mask_id, data.manifest.vocab_size
            )
        loss_mask = data.loss_mask("train") if assistant_only_loss else None
        self.windows = PackedSampler(
            data.tokens("train"), length, batch_size, seed, noise, loss_mask
        )
        self._num_batches, self.start_batch = num_batches, start_batch

    def __len__(self):
        return self._num_batches

    def __getitem__(self, index):
        return self.windows.batch(self.start_batch + index)


class EvaluationDataset(keras.utils.PyDataset):
    """The whole of a split, or its first `limit` batches: (inputs, targets, weights), (B, T).

    Every token but the first is a target once; padding has weight 0, and with `assistant_only_loss`
    so has what the assistant of a conversation does not say.
    """

    def __init__(
        self, data, batch_size, length, split="val", limit=None, assistant_only_loss=False, **kwargs
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, TokenDataset) else TokenDataset(data)
        self.stream = data.tokens(split)
        self.loss_mask = data.loss_mask(split) if assistant_only_loss else None
        if len(self.stream) < 2:
            raise DataError(
                f"The {split} part of {data.folder} is empty; prepare the data set again "
                "with a larger --val-fraction, or train with --train.eval-every 0."
            )
        self.length, self.batch_size = length, batch_size
        self._num_batches = num_evaluation_batches(self.stream, length, batch_size)
        self._num_batches = min(self._num_batches, limit or self._num_batches)

    def __len__(self):
        return self._num_batches

    def __getitem__(self, index):
        return evaluation_batch(self.stream, self.length, self.batch_size, index, self.loss_mask)


class DocumentDataset(keras.utils.PyDataset):
    """Whole documents, such as conversations: (inputs, targets, weights), each (B, L).

    Documents of like length share a batch, so L differs from batch to batch and little is
    padding, of weight 0. See `LengthBucketSampler` for the order.

    Args:
        data: an open `TokenDataset`, or its folder.
        batch_size: B.
        length: the largest L; what a document has more is cut off.
        num_batches: how many batches there are.
        seed: of the order.
        start_batch: number of the first; not 0 when a run is resumed.
        split: "train" or "val".
        assistant_only_loss: of conversations, learn only what the assistant says.
    """

    def __init__(
        self,
        data,
        batch_size,
        length,
        num_batches,
        seed=0,
        start_batch=0,
        split="train",
        assistant_only_loss=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, TokenDataset) else TokenDataset(data)
        loss_mask = data.loss_mask(split) if assistant_only_loss else None
        starts = data.document_offsets(split)
        self.buckets = LengthBucketSampler(
            data.tokens(split), starts, length, batch_size, seed, loss_mask
        )
        self._num_batches, self.start_batch = num_batches, start_batch

    def __len__(self):
        return self._num_batches

    def __getitem__(self, index):
        return self.buckets.batch(self.start_batch + index)
