"""Data sets of preferences for `model.fit`, in memory: pairs for DPO, IPO, ORPO, labels for KTO.

A batch is a pure function of (seed, number). Prompts with completions of similar length share one,
so that little of it is padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kgpt.data.sampler import LengthBuckets
from kgpt.errors import DataError

Ids = Sequence[int] | np.ndarray
NO_ROW = -1  # in place of the number of a completion: padding
Batch = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]


class Completions:
    """Prompts with a completion each, as token ids.

    Args:
        rows: token ids of each prompt and of its completion.

    Attributes:
        offsets: (N + 1,) where each begins in `tokens`. prompts: (N,) tokens of each prompt.
    """

    def __init__(self, rows: Iterable[tuple[Ids, Ids]]):
        sizes, flat = [], []
        for prompt, completion in rows:
            sizes.append((len(prompt), len(completion)))
            flat.append(np.array([*prompt, *completion], np.int32))
        self.tokens = np.concatenate(flat) if flat else np.zeros(0, np.int32)
        prompts, completions = np.array(sizes, np.int64).reshape(-1, 2).T
        self.prompts = np.ascontiguousarray(prompts)
        self.offsets = np.concatenate([[0], np.cumsum(self.prompts + completions)])

    @classmethod
    def of_arrays(cls, tokens: np.ndarray, offsets: np.ndarray, prompts: np.ndarray) -> Completions:
        """What `arrays` returned."""
        made = cls(())
        made.tokens, made.offsets, made.prompts = tokens, offsets, prompts
        return made

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them as arrays, to be saved."""
        return {"tokens": self.tokens, "offsets": self.offsets, "prompts": self.prompts}

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sizes(self) -> np.ndarray:
        """(N,) targets of each: one less than tokens."""
        return np.diff(self.offsets) - 1

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a prompt and its completion."""
        ids = self.tokens[self.offsets[number] : self.offsets[number + 1]]
        return ids[: self.prompts[number]], ids[self.prompts[number] :]

    def take(self, numbers: Iterable[int]) -> Completions:
        """Some of them, in this order."""
        return Completions(self.row(number) for number in numbers)

    def mismatched(self, max_length: int) -> Completions:
        """Each prompt with the completion before its own, the first with the last."""
        rows = ((self.row(i)[0], self.row(i - 1)[1]) for i in range(len(self)))
        return Completions((prompt, rest[: max_length - len(prompt)]) for prompt, rest in rows)

    def padded(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Completions (R,), NO_ROW for none, as arrays (R, length).

        "inputs" and "targets" are int32; "weights" is 1 where the target is the completion's and
        "token_mask" where there is one at all, float32.
        """
        shape = (len(numbers), length)
        inputs, targets = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        weights, mask = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, number in enumerate(numbers.tolist()):
            if number == NO_ROW:
                continue
            ids = self.tokens[self.offsets[number] : self.offsets[number + 1]][: length + 1]
            size = len(ids) - 1
            inputs[row, :size], targets[row, :size], mask[row, :size] = ids[:-1], ids[1:], 1
            weights[row, max(0, self.prompts[number] - 1) : size] = 1
        return {"inputs": inputs, "targets": targets, "weights": weights, "token_mask": mask}

    def fingerprint(self) -> str:
        """SHA-256 of all of them."""
        digest = hashlib.sha256()
        for array in self.arrays().values():
            digest.update(np.ascontiguousarray(array, "<i8").tobytes())
        return digest.hexdigest()


class CompletionBatches(keras.utils.PyDataset):
    """What both kinds of data sets share: batches of completions of similar length.

    Args:
        completions: all of them.
        sizes: (rows,) targets of the longest completion of each row of a batch.
        batch_size: B.
        num_batches: how many batches there are; one epoch when not given.
        seed: of the order.
        start_batch: number of the first; not 0 when a run is resumed.
        shuffle: false is for evaluation: the order of the data, the same in each epoch.

    Attributes:
        reference: what `kgpt.reference_log_probs` returned, to be given with each batch.
    """

    def __init__(
        self,
        completions: Completions,
        sizes: np.ndarray,
        batch_size: int,
        num_batches: int | None = None,
        seed: int = 0,
        start_batch: int = 0,
        shuffle: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not len(sizes):
            raise DataError("There are no preferences; there is nothing to learn from.")
        self.completions, self.length = completions, int(sizes.max())
        self.vocab_size = int(completions.tokens.max()) + 1
        self.batch_size, self.start_batch = batch_size, start_batch
        self.buckets = LengthBuckets(sizes, self.length, batch_size, seed if shuffle else None)
        self._num_batches = num_batches or self.buckets.per_epoch
        self.reference: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self._num_batches

    def parts(self) -> dict[str, Completions]:
        """The completions whose log-probabilities are needed, by the name of these."""
        return {"reference_log_probs": self.completions}

    def rows(self, index: int) -> tuple[np.ndarray, int]:
        """Row numbers (B,) of a batch, NO_ROW for none, and the length of its bucket."""
        rows, length = self.buckets.batch(self.start_batch + index)
        missing = self.batch_size - len(rows)
        return np.pad(rows, (0, missing), constant_values=NO_ROW), length

    def of_reference(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Log-probabilities (R,) of completions, if the reference is known."""
        return {name: values[numbers] for name, values in self.reference.items()}


class PreferenceDataset(CompletionBatches):
    """Pairs: of B prompts the chosen completions, and then the rejected ones.

    A batch is (inputs, y, weights), inputs and weights (2B, T), for `kgpt.DPOLoss`, `kgpt.IPOLoss`
    and `kgpt.ORPOLoss`; weights are 1 where a completion is learned.

    Args:
        completions: 2N, the chosen ones first; see `kgpt.read_pairs`.
        batch_size: B.
        options: see `CompletionBatches`.
    """

    def __init__(self, completions: Completions, batch_size: int, **options: Any):
        self.pairs = len(completions) // 2
        sizes = np.maximum(*completions.sizes.reshape(2, self.pairs))
        super().__init__(completions, sizes, batch_size, **options)

    def __getitem__(self, index: int) -> Batch:
        rows, length = self.rows(index)
        rejected = np.where(rows == NO_ROW, NO_ROW, rows + self.pairs)
        numbers = np.concatenate([rows, rejected])
        batch = self.completions.padded(numbers, length)
        inputs, weights = batch.pop("inputs"), batch.pop("weights")
        return inputs, batch | self.of_reference(numbers), weights


class UnpairedPreferenceDataset(CompletionBatches):
    """Completions with a label each, for `kgpt.KTOLoss`.

    A batch is (inputs, y, weights), inputs and weights (B, T). For the KL term y has each prompt
    with the completion of another one, as "kl_inputs", "kl_targets" and "kl_weights".

    Args:
        completions: N; see `kgpt.read_labeled_completions`.
        labels: (N,) 1 for a good completion and 0 for a bad one.
        batch_size: B.
        options: see `CompletionBatches`.
    """

    def __init__(
        self, completions: Completions, labels: np.ndarray, batch_size: int, **options: Any
    ):
        longest = int(completions.sizes.max(initial=0)) + 1
        self.mismatched = completions.mismatched(longest)
        self.labels = np.asarray(labels, np.float32)
        sizes = np.maximum(completions.sizes, self.mismatched.sizes)
        super().__init__(completions, sizes, batch_size, **options)

    def parts(self) -> dict[str, Completions]:
        return super().parts() | {"kl_reference_log_probs": self.mismatched}

    def __getitem__(self, index: int) -> Batch:
        rows, length = self.rows(index)
        batch, others = (c.padded(rows, length) for c in (self.completions, self.mismatched))
        inputs, weights = batch.pop("inputs"), batch.pop("weights")
        of_kl = {f"kl_{name}": others[name] for name in ("inputs", "targets", "weights")}
        y = batch | of_kl | {"labels": self.labels[rows]} | self.of_reference(rows)
        return inputs, y, weights
