"""When tokens of a data set are trained on: the inverse of the samplers.

A batch is a function of seed and step, and the order of an epoch is an invertible permutation, so
the steps of a window are computed and not searched for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kgpt.config import Config, SkippedSteps
from kgpt.data.packing import PackedDocumentSampler, Sampler, make_sampler
from kgpt.data.sampler import LengthBucketSampler, PackedSampler, inverse_feistel_permutation
from kgpt.data.shards import TokenDataset


@dataclass(frozen=True)
class Window:
    """A row of a batch of training that has a span of tokens, or some of it.

    Attributes:
        step: the update of the batch, from 1 as in metrics.jsonl.
        batch: its number since the first step; with gradient accumulation a step has several.
        row: in the batch.
        start, end: the tokens of the row as offsets in the split, its last target included; of a
            row of several documents, those of the document.
        whole: whether the whole span is in it; else some of the span's tokens are targets.
    """

    step: int
    batch: int
    row: int
    start: int
    end: int
    whole: bool


class Windows:
    """Finds the windows of a run.

    Args:
        data: the data set of the run.
        config: of the run, as its run.yaml has it.
    """

    def __init__(self, data: TokenDataset, config: Config):
        options, train = config.data, config.train
        self.length = train.sequence_length or config.model.max_length
        self.sampler: Sampler = make_sampler(
            data, "train", options.packing or "stream", self.length, train.batch_size, train.seed,
            bool(options.assistant_only_loss),
        )  # fmt: skip
        self.accumulation = train.grad_accumulation
        self.skipped = SkippedSteps(train.skip_steps)
        self.num_batches = self.skipped.data_step(train.max_steps) * train.grad_accumulation
        if isinstance(self.sampler, LengthBucketSampler):
            passes = self.num_batches
        else:
            passes = self.num_batches * train.batch_size
        self.epochs = np.arange(-(-passes // self.sampler.per_epoch), dtype=np.int64)

    def find(self, begin: int, end: int) -> list[Window]:
        """The windows of the tokens [begin, end) of the split "train", in the order of steps."""
        if isinstance(self.sampler, PackedSampler):
            found = self._in_stream(self.sampler, begin, end)
        else:
            found = self._in_documents(self.sampler, begin, end)
        return sorted(found, key=lambda window: (window.batch, window.row))

    def _in_stream(self, sampler: PackedSampler, begin: int, end: int) -> list[Window]:
        """Of windows cut from the stream: each epoch has one, or several adjacent ones."""
        length, offsets = self.length, sampler.offsets(self.epochs.astype(np.uint64))
        # Window n of an epoch holds the tokens from n T + offset to (n + 1) T + offset inclusive.
        candidates = np.arange(-1, (end - begin) // length + 2)  # beside the one with `begin`
        numbers = (begin - offsets)[:, None] // length + candidates  # (epochs, candidates)
        starts = numbers * length + offsets[:, None]
        whole, learned = _overlap(starts, length, begin, end)
        valid = (numbers >= 0) & (numbers < sampler.per_epoch) & (whole | learned)
        epochs = np.broadcast_to(self.epochs[:, None], numbers.shape)[valid]
        order = inverse_feistel_permutation(numbers[valid], sampler.per_epoch, sampler.seed, epochs)
        samples = epochs * sampler.per_epoch + order
        batches, rows = np.divmod(samples, sampler.batch_size)
        sizes = np.full(len(batches), length)
        return self._windows(batches, rows, starts[valid], sizes, whole[valid])

    def _in_documents(
        self, sampler: PackedDocumentSampler | LengthBucketSampler, begin: int, end: int
    ) -> list[Window]:
        """Of rows of whole documents: each epoch has a document once."""
        first = int(np.searchsorted(sampler.offsets, begin, side="right")) - 1
        last = int(np.searchsorted(sampler.offsets, end - 1, side="right"))
        found: list[Window] = []
        for document in range(max(first, 0), last):
            start, size = int(sampler.offsets[document]), int(sampler.sizes[document])
            whole, learned = _overlap(np.array([start]), size, begin, end)
            if size and (whole | learned)[0]:
                if isinstance(sampler, LengthBucketSampler):
                    batches, rows = _in_buckets(sampler, document, self.epochs)
                else:
                    batches, rows = _in_rows(sampler, document, self.epochs)
                shape = batches.shape
                found += self._windows(
                    batches, rows, np.full(shape, start), np.full(shape, size),
                    np.broadcast_to(whole, shape),
                )  # fmt: skip
        return found

    def _windows(
        self,
        batches: np.ndarray,
        rows: np.ndarray,
        starts: np.ndarray,
        sizes: np.ndarray,
        whole: np.ndarray,
    ) -> list[Window]:
        """Of (K,) arrays, those before the end of the run whose steps it does not skip."""
        arrays = (batches, rows, starts, starts + sizes + 1, whole)
        found = []
        for batch, *rest in zip(*(array.tolist() for array in arrays), strict=True):
            step = self.skipped.step_of(batch // self.accumulation + 1)
            if batch < self.num_batches and step is not None:
                number = (step - 1) * self.accumulation + batch % self.accumulation
                found.append(Window(step, number, *rest))
        return found


def _overlap(starts: np.ndarray, size: int, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether windows of `size` inputs hold all of [begin, end), and whether they learn some."""
    whole = (starts <= begin) & (end <= starts + size + 1)
    learned = (starts + 1 < end) & (begin <= starts + size)
    return whole, learned


def _in_rows(
    sampler: PackedDocumentSampler, document: int, epochs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Batch and row of a document in each epoch, where several share a row."""
    sizes = sampler.sizes[sampler.documents]
    size = sampler.sizes[document]
    alike = sampler.documents[sizes == size]
    shorter = int((sizes < size).sum())
    own = sampler.noise(np.array([document]), epochs)
    pairs = zip(epochs.tolist(), own, strict=True)
    ranks = np.array([(sampler.noise(alike, epoch) < noise).sum() for epoch, noise in pairs], int)
    places = sampler.places_by_size[shorter + ranks]
    rows = np.searchsorted(sampler.row_offsets, places, side="right") - 1
    order = inverse_feistel_permutation(rows, sampler.per_epoch, sampler.seed, epochs)
    batches, in_batch = np.divmod(epochs * sampler.per_epoch + order, sampler.batch_size)
    return batches, in_batch


def _in_buckets(
    sampler: LengthBucketSampler, document: int, epochs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Batch and row of a document in each epoch, where it has a row of its own."""
    buckets = sampler.buckets
    assert buckets.seed is not None
    bucket = next(i for i, some in enumerate(buckets.members) if _holds(some, document))
    members = buckets.members[bucket]
    index = np.full(len(epochs), np.searchsorted(members, document))
    places = inverse_feistel_permutation(index, len(members), buckets.seed + 1 + bucket, epochs)
    numbers, rows = np.divmod(places, buckets.batch_size)
    numbers = numbers + int(buckets.counts[:bucket].sum())
    order = inverse_feistel_permutation(numbers, buckets.per_epoch, buckets.seed, epochs)
    return epochs * buckets.per_epoch + order, rows


def _holds(members: np.ndarray, document: int) -> bool:
    """Whether a document is among `members`, in order."""
    place = int(np.searchsorted(members, document))
    return place < len(members) and int(members[place]) == document
