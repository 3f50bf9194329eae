"""How much the texts of one model differ from each other."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from kgpt.evaluation.statistic import Statistic
from kgpt.evaluation.text_metrics.words import Ngram, ngrams

MAX_ORDER = 4
Closest = tuple[int, int, int]  # the greatest count, the text that has it, the greatest elsewhere


def distinct_n(texts: Sequence[Sequence[str]], n: int) -> Statistic:
    """Different n-grams per n-gram over all texts (lists of tokens); 0 if there is no n-gram.

    An n-gram that occurs c times in all texts adds 1/c each time, so that the sum is the number of
    different n-grams, and a text has a value of its own: how rare its n-grams are.

    Source: Li et al. 2016, "A Diversity-Promoting Objective Function for Neural Conversation
    Models". It falls with the number and length of the texts: compare sets of one size.

    >>> distinct_n([["a", "b"], ["a", "c"]], 1).value
    0.75
    """
    found = [ngrams(tokens, n) for tokens in texts]
    counts = Counter(chain.from_iterable(found))
    shares = [sum(1 / counts[ngram] for ngram in own) for own in found]
    return Statistic.ratio(shares, list(map(len, found)), "higher")


def self_bleu(texts: Sequence[Sequence[str]]) -> list[float]:
    """BLEU-4 of each text (a list of tokens) with all others as references, 0 to 100.

    High values mean that the texts resemble each other. As sacrebleu's sentence score: exponential
    smoothing and the effective order. The time grows with the number of tokens, not with its
    square. One text alone has 0.

    Source: Zhu et al. 2018, "Texygen".

    >>> self_bleu(["a b c d".split(), "a b c d".split(), "w x y z".split()])
    [100.0, 100.0, 0.0]
    """
    counts = [_counts(tokens) for tokens in texts]
    largest = _largest_counts(counts)
    lengths = sorted(map(len, texts))
    return [
        _sentence_bleu(i, counts[i], largest, lengths, len(texts[i])) for i in range(len(texts))
    ]


def _counts(tokens: Sequence[str]) -> Counter[Ngram]:
    orders = range(1, MAX_ORDER + 1)
    return Counter(ngram for order in orders for ngram in ngrams(tokens, order))


def _largest_counts(counts: Sequence[Counter[Ngram]]) -> dict[Ngram, Closest]:
    """The two greatest counts of each n-gram in two texts, so that any one text can be left out."""
    largest: dict[Ngram, Closest] = {}
    for owner, counter in enumerate(counts):
        for ngram, count in counter.items():
            first, holder, second = largest.get(ngram, (0, -1, 0))
            if count > first:
                largest[ngram] = (count, owner, first)
            else:
                largest[ngram] = (first, holder, max(second, count))
    return largest


def _sentence_bleu(
    owner: int,
    counts: Counter[Ngram],
    largest: dict[Ngram, Closest],
    lengths: Sequence[int],
    length: int,
) -> float:
    correct, total = [0] * MAX_ORDER, [0] * MAX_ORDER
    for ngram, count in counts.items():
        first, holder, second = largest[ngram]
        correct[len(ngram) - 1] += min(count, second if holder == owner else first)
        total[len(ngram) - 1] += count
    if not any(correct):
        return 0.0
    return _brevity_penalty(length, lengths) * _smoothed_precision(correct, total)


def _smoothed_precision(correct: Sequence[int], total: Sequence[int]) -> float:
    """Geometric mean of the n-gram precisions in percent, over the orders the text has.

    The k-th order without a match counts as 1/2^k of a match (method 3 of Chen and Cherry 2014).
    """
    logs, unmatched = [], 0
    for matches, possible in zip(correct, total, strict=True):
        if not possible:
            break
        unmatched += not matches
        logs.append(math.log((matches or 0.5**unmatched) / possible))
    return 100 * math.exp(sum(logs) / len(logs))


def _brevity_penalty(length: int, lengths: Sequence[int]) -> float:
    """exp(1 - r/c) for a text of c tokens shorter than r, the closest length of another text."""
    place = bisect_left(lengths, length)  # the first text of this length; leave one such text out
    others = (*lengths[max(0, place - 1) : place], *lengths[place + 1 : place + 2])
    reference = min(others, key=lambda other: (abs(other - length), other))
    return min(1.0, math.exp(1 - reference / length))
