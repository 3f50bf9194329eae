"""Quality of generated texts: pure functions of the texts and, for some, of references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kgpt.errors import DataError
from kgpt.evaluation.statistic import Better, Statistic
from kgpt.evaluation.text_metrics.diversity import distinct_n, self_bleu
from kgpt.evaluation.text_metrics.exact_match import exact_match
from kgpt.evaluation.text_metrics.overlap import References, rouge_scores, sacrebleu_scores
from kgpt.evaluation.text_metrics.repetition import longest_repeat, rep_n
from kgpt.evaluation.text_metrics.vocabulary import mtld, type_token_ratio
from kgpt.evaluation.text_metrics.words import tokens_of, words_of

__all__ = [
    "distinct_n",
    "exact_match",
    "longest_repeat",
    "mtld",
    "rep_n",
    "rouge_scores",
    "sacrebleu_scores",
    "score_texts",
    "self_bleu",
    "type_token_ratio",
]


def score_texts(texts: Sequence[str], references: References | None = None) -> dict[str, Statistic]:
    """Every metric of the texts by name; those that compare need references.

    Args:
        texts: at least one; an empty text is a text.
        references: one list of at least one reference for each text.

    Raises:
        DataError: there is no text, or a text has no reference.
        UsageError: references are given and the extra `eval` is not installed.

    >>> scores = score_texts(["It rains.", "It rains and it pours."])
    >>> scores["length_words"].item_values.tolist(), round(scores["distinct_1"].value, 4)
    ([2.0, 5.0], 0.5556)
    """
    if not texts:
        raise DataError("There is no text to score; generate at least one.")
    return score_alone(texts) | (score_with_references(texts, references) if references else {})


def score_alone(texts: Sequence[str]) -> dict[str, Statistic]:
    """Length, repetition, vocabulary and diversity: metrics of the texts alone."""
    tokens, words = [tokens_of(text) for text in texts], [words_of(text) for text in texts]

    def mean(values: Iterable[float], better: Better | None = None) -> Statistic:
        return Statistic.mean(list(values), better)

    return {
        "length_words": mean(map(len, words)),
        "length_characters": mean(map(len, texts)),
        "rep_4": mean(map(rep_n, tokens), "lower"),
        "longest_repeat": mean(map(longest_repeat, tokens), "lower"),
        "type_token_ratio": mean(map(type_token_ratio, words)),
        "mtld": mean(map(mtld, words)),
        **{f"distinct_{n}": distinct_n(tokens, n) for n in (1, 2, 3)},
        **({"self_bleu": mean(self_bleu(tokens), "lower")} if len(texts) > 1 else {}),
    }


def score_with_references(texts: Sequence[str], references: References) -> dict[str, Statistic]:
    """Overlap with references, and exact match."""
    missing = [i for i, own in enumerate(references) if not own]
    if missing or len(references) != len(texts):
        first = missing[0] if missing else min(len(references), len(texts))
        raise DataError(f"Text {first + 1} has no reference; give one for each text, or none.")
    exact = [exact_match(text, own) for text, own in zip(texts, references, strict=True)]
    return {
        **sacrebleu_scores(texts, references),
        **rouge_scores(texts, references),
        "exact_match": Statistic.mean(exact, "higher"),
    }
