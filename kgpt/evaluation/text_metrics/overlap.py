"""Overlap of texts with references, by the packages whose figures people compare.

Each takes one list of references a text; the lists may differ in length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np

from kgpt.errors import UsageError
from kgpt.evaluation.statistic import Statistic

References = Sequence[Sequence[str]]
MAX_TER_WORDS = 60
NEEDS_EXTRA = '{} {}; `pip install "kgpt[eval]"`, or give no references.'


def sacrebleu_scores(texts: Sequence[str], references: References) -> dict[str, Statistic]:
    """`bleu`, `chrf` and `ter` by sacrebleu with its default settings, from 0 to 100.

    Over all texts they are corpus scores, not means. For TER less is better, and more than 100 is
    possible; it is left out if a text or reference has more than 60 words, since its search takes
    over a second for 100. Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".

    Raises:
        UsageError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ImportError:
        raise UsageError(NEEDS_EXTRA.format("BLEU, chrF and TER need", "sacrebleu")) from None
    transposed = list(zip_longest(*references))  # r-th reference of each text, None for none

    def rows(metric: BLEU | CHRF | TER) -> np.ndarray:
        return np.array(metric._extract_corpus_statistics(texts, transposed), "float64")

    scores = {
        "bleu": Statistic(rows(BLEU(force=True)), "bleu", "higher"),
        "chrf": Statistic(rows(CHRF()), "chrf", "higher"),
    }
    if max(len(text.split()) for text in chain(texts, *references)) <= MAX_TER_WORDS:
        scores["ter"] = Statistic(rows(TER()), "ter", "lower")
    return scores


def rouge_scores(texts: Sequence[str], references: References) -> dict[str, Statistic]:
    """`rouge_1`, `rouge_2` and `rouge_l` by rouge-score: the F measure without stemming, 0 to 1.

    Of several references the one that gives most counts; over all texts it is the mean. Only words
    of the letters a to z and of digits are compared. Source: Lin 2004.

    Raises:
        UsageError: rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError(NEEDS_EXTRA.format("ROUGE needs", "rouge-score")) from None
    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()))
    found = [
        scorer.score_multi(list(own), text) for text, own in zip(texts, references, strict=True)
    ]
    return {
        name: Statistic.mean([score[kind].fmeasure for score in found], "higher")
        for name, kind in kinds.items()
    }
