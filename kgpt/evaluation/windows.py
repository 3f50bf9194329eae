"""Documents longer than a model's context, cut into windows that overlap by a stride.

As in transformers' guide "Perplexity of fixed-length models": a window of `context` tokens begins
every `stride` tokens and scores those of its tokens that the one before did not reach. Each token
is so predicted from at least `context - stride` others, where there are as many. Where windows do
not overlap, that recipe leaves out the first token of each; here the last token of the window
before precedes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kgpt.evaluation.documents import EncodedDocument


@dataclass(frozen=True)
class Window:
    """A piece of a document.

    Attributes:
        document: the number of the document.
        inputs, targets: (T,) int32.
        weights: (T,) float32, 1 for the targets that are scored here, else 0.
    """

    document: int
    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)


def windows(
    document: EncodedDocument, number: int, context: int, stride: int | None = None
) -> Iterator[Window]:
    """The windows of a document in which something is scored, each of up to `context` tokens.

    Args:
        number: of the document.
        stride: at most `context`, which is what None means.
    """
    ids, mask, scored = document.token_ids, document.loss_mask, 1
    for begin in range(0, len(ids), stride or context):
        end = min(begin + context, len(ids))
        first = min(begin, scored - 1)  # precedes what is scored
        weights = mask[first + 1 : end].astype("float32")
        weights[: scored - 1 - first] = 0
        if weights.any():
            yield Window(number, ids[first : end - 1], ids[first + 1 : end], weights)
        scored = max(scored, end)
        if end == len(ids):
            return
