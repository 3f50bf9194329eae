"""Evaluate models on documents: the figures of each, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgpt.config import EvaluationConfig
from kgpt.errors import DataError, UsageError
from kgpt.evaluation.bootstrap import estimate
from kgpt.evaluation.documents import Document, DocumentEncoder, EncodedDocument
from kgpt.evaluation.journal import Journal
from kgpt.evaluation.likelihood import Progress, Scorer
from kgpt.evaluation.positions import NUM_BINS
from kgpt.evaluation.result import Estimate
from kgpt.evaluation.statistic import Statistic
from kgpt.evaluation.windows import Window, windows

WINDOWS_AT_ONCE = 2048  # scored, and then saved, together
DO_NOT_CHANGE_ITEMS = (
    "batch_tokens",
    "resamples",
    "confidence",
    "bootstrap_seed",
    "limit",
    "prompts",
    "judge",
    "novelty_data",
    "min_copied_tokens",
)


@dataclass(frozen=True)
class DocumentScore:
    """How well a model predicts a document.

    Attributes:
        loss: the sum of -log p of its tokens, in nats.
        tokens, words, bytes: that count.
        positions: (2, P) losses and tokens by position; see `by_position`.
    """

    loss: float
    tokens: int
    words: int
    bytes: int
    positions: Sequence[Sequence[float]] = ()

    def as_list(self) -> list[Any]:
        return [self.loss, self.tokens, self.words, self.bytes, self.positions]


def score_documents(
    scorer: Scorer,
    encoder: DocumentEncoder,
    documents: Sequence[Document],
    config: EvaluationConfig,
    journal: Journal | None = None,
    progress: Progress = lambda _: None,
) -> list[DocumentScore]:
    """The likelihood of each document; those in the journal are not computed again.

    Args:
        progress: called with numbers of bytes of documents that are finished.

    Raises:
        UsageError: `config.context` or `config.stride` do not fit.
        DataError: there is nothing to predict.
    """
    journal = journal or Journal(None, {})
    context, stride = window_size(config, scorer.context)
    left = [number for number in range(len(documents)) if number not in journal.done]
    progress(sum(documents[number].num_bytes for number in journal.done if number < len(documents)))
    encoded = zip(left, encoder.encode([documents[number] for number in left]), strict=True)
    for group in _groups(encoded, context, stride):
        numbers = [number for number, _, _ in group]
        cut_windows = [window for _, _, cut in group for window in cut]
        places = np.zeros((len(cut_windows), 2, NUM_BINS))
        losses = scorer.losses(cut_windows, positions=places)
        scores, first = [], 0
        for _, document, cut in group:
            own = slice(first, first + len(cut))
            loss, by_position = float(losses[own].sum()), places[own].sum(axis=0).tolist()
            first += len(cut)
            tokens = int(document.loss_mask.sum())
            scores.append(
                DocumentScore(loss, tokens, document.num_words, document.num_bytes, by_position)
            )
        journal.add(numbers, [score.as_list() for score in scores])
        progress(sum(score.bytes for score in scores))
    found = [DocumentScore(*journal.done[number]) for number in range(len(documents))]
    if not any(score.tokens for score in found):
        raise DataError("There is not one token to predict in the documents; give longer ones.")
    return found


def window_size(config: EvaluationConfig, longest: int) -> tuple[int, int]:
    """Context and stride of an evaluation for a model of this context; see `EvaluationConfig`."""
    context = config.context or longest
    if context > longest:
        raise UsageError(f"context is {context}, but the model's is {longest}; lower it.")
    stride = config.stride or context
    if stride > context:
        raise UsageError(f"stride is {stride}, above the context of {context}; lower it.")
    return context, stride


def _groups(
    encoded: Any, context: int, stride: int
) -> Iterator[list[tuple[int, EncodedDocument, list[Window]]]]:
    """Whole documents, with their windows, of about `WINDOWS_AT_ONCE` windows together."""
    group: list[tuple[int, EncodedDocument, list[Window]]] = []
    for number, document in encoded:
        group.append((number, document, list(windows(document, number, context, stride))))
        if sum(len(cut) for _, _, cut in group) >= WINDOWS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def likelihood_statistics(scores: Sequence[DocumentScore]) -> dict[str, Statistic]:
    """Loss (nats a token), perplexities of tokens and words, and bits per byte."""
    loss = [score.loss for score in scores]
    bits = [score.loss / math.log(2) for score in scores]
    tokens, words = [s.tokens for s in scores], [s.words for s in scores]
    per_token = Statistic.ratio(loss, tokens, "lower")
    per_word = Statistic.ratio(loss, words, "lower")
    return {
        "loss": per_token,
        "token_perplexity": Statistic(per_token.rows, "exp_ratio", "lower"),
        "word_perplexity": Statistic(per_word.rows, "exp_ratio", "lower"),
        "bits_per_byte": Statistic.ratio(bits, [s.bytes for s in scores], "lower"),
    }


def estimates(statistics: dict[str, Statistic], config: EvaluationConfig) -> dict[str, Estimate]:
    """The figures with their intervals."""
    options = (config.resamples, config.confidence, config.bootstrap_seed)
    return {name: estimate(statistic, *options) for name, statistic in statistics.items()}


def item_settings(config: EvaluationConfig) -> dict[str, Any]:
    """The options that the likelihood of a document depends on."""
    return config.model_dump(exclude=set(DO_NOT_CHANGE_ITEMS))
