"""Data sets as Keras sees them: `PyDataset`s over the windows of memory-mapped shards.

They are vectorised and cost a fraction of a millisecond a batch, so Keras's worker processes are
not needed. Pass them to `fit` with `shuffle=False`: their order is already random, and fixed.
"""

from __future__ import annotations

import keras

from kgpt.data.augment import Noise
from kgpt.data.buckets import Buckets
from kgpt.data.shards import DataSet
from kgpt.data.windows import Windows, evaluation_batch, evaluation_batches
from kgpt.errors import DataError


class TrainBatches(keras.utils.PyDataset):
    """Batches `first`, `first + 1`, ... of a training run: (inputs, targets), each (B, T) int32.

    With `replies_only` there are weights, too: (B, T) float32.

    Args:
        data: an open `DataSet`, or its folder.
        batch_size: B.
        length: T.
        seed: of order and noise.
        count: how many batches there are.
        first: number of the first; not 0 when a run is resumed.
        token_dropout: share of inputs hidden behind the end-of-text token.
        token_replacement: share of inputs replaced by random tokens.
        replies_only: of conversations, learn only what the assistant says.
    """

    def __init__(
        self,
        data,
        batch_size,
        length,
        count,
        seed=0,
        first=0,
        token_dropout=0.0,
        token_replacement=0.0,
        replies_only=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, DataSet) else DataSet(data)
        noise = None
        if token_dropout or token_replacement:
            blank = data.tokenizer.end_of_text or 0
            noise = Noise(token_dropout, token_replacement, blank, data.manifest.vocab_size)
        learnable = data.learnable("train") if replies_only else None
        self.windows = Windows(data.tokens("train"), length, batch_size, seed, noise, learnable)
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.windows.batch(self.first + index)


class EvaluationBatches(keras.utils.PyDataset):
    """The whole of a split, or its first `limit` batches: (inputs, targets, weights), (B, T).

    Every token but the first is a target once; padding has weight 0, and with `replies_only`
    so has what the assistant of a conversation does not say.
    """

    def __init__(
        self, data, batch_size, length, split="val", limit=None, replies_only=False, **kwargs
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, DataSet) else DataSet(data)
        self.stream = data.tokens(split)
        self.learnable = data.learnable(split) if replies_only else None
        if len(self.stream) < 2:
            raise DataError(
                f"The {split} part of {data.folder} is empty; prepare the data set again "
                "with a larger --val-fraction, or train with --train.eval-every 0."
            )
        self.length, self.batch_size = length, batch_size
        self.count = evaluation_batches(self.stream, length, batch_size)
        self.count = min(self.count, limit or self.count)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return evaluation_batch(self.stream, self.length, self.batch_size, index, self.learnable)


class DocumentBatches(keras.utils.PyDataset):
    """Whole documents, such as conversations: (inputs, targets, weights), each (B, L).

    Documents of like length share a batch, so L differs from batch to batch and little is
    padding, of weight 0. See `Buckets` for the order.

    Args:
        data: an open `DataSet`, or its folder.
        batch_size: B.
        length: the largest L; what a document has more is cut off.
        count: how many batches there are.
        seed: of the order.
        first: number of the first; not 0 when a run is resumed.
        split: "train" or "val".
        replies_only: of conversations, learn only what the assistant says.
    """

    def __init__(
        self,
        data,
        batch_size,
        length,
        count,
        seed=0,
        first=0,
        split="train",
        replies_only=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        data = data if isinstance(data, DataSet) else DataSet(data)
        learnable = data.learnable(split) if replies_only else None
        starts = data.document_starts(split)
        self.buckets = Buckets(data.tokens(split), starts, length, batch_size, seed, learnable)
        self.count, self.first = count, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.buckets.batch(self.first + index)
