"""Two models on the same documents: which is better, by how much, and how sure that is."""

from __future__ import annotations

from kgpt.evaluation.bootstrap import CONFIDENCE, RESAMPLES, Difference, paired_difference
from kgpt.evaluation.result import EvaluationResult

# The first that both have decides: bits per byte compare models whatever their tokenizers.
DECISIVE = ("bits_per_byte", "loss")


def differences(
    a: EvaluationResult,
    b: EvaluationResult,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Difference]:
    """B - A of each metric that both have.

    Raises:
        UsageError: they were not evaluated on the same number of items.
    """
    return {
        name: paired_difference(statistic, b.statistics[name], resamples, confidence, seed)
        for name, statistic in a.statistics.items()
        if name in b.statistics
    }


def verdict(a: str, b: str, found: dict[str, Difference], confidence: float = CONFIDENCE) -> str:
    """A sentence: which of the models named `a` and `b` is better, if that can be said.

    >>> from kgpt.evaluation.result import Estimate
    >>> found = {"loss": Difference(Estimate(-0.5, -0.6, -0.4), 0.001, "lower")}
    >>> verdict("A", "B", found)
    'B is better than A: loss is 0.5000 lower (95% interval 0.4000 to 0.6000, p = 0.001).'
    """
    name = next((name for name in (*DECISIVE, *found) if name in found), None)
    if name is None:
        return f"{a} and {b} have no metric in common."
    difference, metric = found[name], name.replace("_", " ")
    value = difference.estimate.value
    low, high = sorted((abs(difference.estimate.low), abs(difference.estimate.high)))
    interval = f"{confidence:.0%} interval"
    if difference.winner is None:
        return (
            f"No difference between {a} and {b} can be told: {metric} differs by {value:+.4f} "
            f"({interval} {difference.estimate.low:+.4f} to {difference.estimate.high:+.4f}, "
            f"p = {difference.p_value:.2g})."
        )
    first, second = (a, b) if difference.winner == "A" else (b, a)
    return (
        f"{first} is better than {second}: {metric} is {abs(value):.4f} {difference.better} "
        f"({interval} {low:.4f} to {high:.4f}, p = {difference.p_value:.1g})."
    )
