"""Labels for texts, by the classifier of a directory: text in, labels and scores out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from kgpt.checkpoints.classifiers import load_classifier
from kgpt.checkpoints.hub import resolve_source
from kgpt.checkpoints.pretrained import load_tokenizer
from kgpt.config import DtypeOption
from kgpt.data.labelled_dataset import encode_texts
from kgpt.data.labels import THRESHOLD
from kgpt.errors import UsageError
from kgpt.generation.engine import Engine
from kgpt.generation.forward_job import ForwardJob
from kgpt.generation.loading import LESS_MEMORY, build_for_inference, inference_dtype
from kgpt.generation.scoring import classify
from kgpt.out_of_memory import out_of_memory_as_kgpt
from kgpt.protocol import EngineStats

BATCH_TEXTS = 512  # classified, and then reported, at a time


@dataclass(frozen=True)
class Classification:
    """The labels of a text.

    Attributes:
        labels: the most probable one; where a text may have several, all those with a probability
            of a half or more, the most probable first.
        scores: the probability of each label of the classifier, in its order.
        multi_label: whether a text may have several.
    """

    labels: tuple[str, ...]
    scores: dict[str, float]
    multi_label: bool = False

    @property
    def label(self) -> str:
        """The most probable label."""
        return max(self.scores, key=lambda name: self.scores[name])

    def as_dict(self) -> dict[str, Any]:
        """What `kgpt classify predict` writes besides the text."""
        chosen = {"labels": list(self.labels)} if self.multi_label else {"label": self.label}
        return chosen | {"scores": self.scores}


class TextClassifier:
    """Classifies texts with the model of a directory, on an engine of its own.

    Args:
        source: a classifier's directory, a run (its best checkpoint), run@step, or a hub id.
        max_num_seqs: texts of a batch.
        max_queue: texts that may wait besides those, where callers do not wait for each other.
        max_context: tokens of a text; the model's `max_length` when not given.
        dtype: of weights and computation; "auto" is the format of a quantized model directory, else
            float32. "int8" and "int4" quantize the weights.

    Raises:
        UsageError: there is no such model, or it is no classifier.

    Example::

        with kgpt.TextClassifier("who-speaks") as classifier:
            print(classifier.classify(["O, speak again, bright angel!"])[0].label)
    """

    def __init__(
        self,
        source: str | Path,
        *,
        max_num_seqs: int = 16,
        max_queue: int = 64,
        max_context: int | None = None,
        dtype: DtypeOption = "auto",
    ):
        self.folder = resolve_source(source)
        self.dtype = inference_dtype(self.folder, dtype)
        with out_of_memory_as_kgpt(LESS_MEMORY):
            self.model = build_for_inference(partial(load_classifier, self.folder), self.dtype)
        self.tokenizer = load_tokenizer(self.folder)
        self.config = self.model.config
        self.labels: tuple[str, ...] = self.model.labels
        self.multi_label: bool = self.model.multi_label
        self.max_context = min(max_context or self.config.max_length, self.config.max_length)
        self.engine = Engine(self.model, max_num_seqs, max_queue, self.max_context)

    def warm_up(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile what a short text needs; `progress` is called with (done, total)."""
        if progress is not None:
            progress(0, 1)
        self.classify([""])
        if progress is not None:
            progress(1, 1)

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """The labels of texts; of a longer one those of its first `max_context` tokens."""
        return list(self.stream(texts))

    def stream(self, texts: Sequence[str]) -> Iterator[Classification]:
        """`classify`, some texts at a time."""
        if isinstance(texts, str):
            raise UsageError("Give a list of texts, not one text.")
        for start in range(0, len(texts), BATCH_TEXTS):
            yield from map(self.result, self.probabilities(texts[start : start + BATCH_TEXTS]))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """The probability of each label: (texts, labels)."""
        if not texts:
            return np.zeros((0, len(self.labels)), "float32")
        prompts = [ids[: self.max_context] for ids in encode_texts(self.tokenizer, texts)]
        return classify(self.engine, prompts)

    def result(self, probabilities: np.ndarray) -> Classification:
        """What the probabilities (labels,) of a text mean."""
        scores = dict(zip(self.labels, map(float, probabilities), strict=True))
        ranked = sorted(scores, key=lambda name: -scores[name])
        chosen = [name for name in ranked if scores[name] >= THRESHOLD]
        return Classification(
            tuple(chosen if self.multi_label else ranked[:1]), scores, self.multi_label
        )

    def submit_forward(self, jobs: Sequence[ForwardJob]) -> None:
        """Queue texts for a forward pass; see `Engine.submit_forward`."""
        self.engine.submit_forward(jobs)

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def close(self, drain: bool = False) -> None:
        """End the engine's thread; with `drain`, after all texts are done."""
        self.engine.close(drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
