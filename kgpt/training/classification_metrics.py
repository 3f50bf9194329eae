"""How good a classifier's predictions are: accuracy, F1, confusion matrix, calibration.

Each equals scikit-learn's figure of the same name where that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgpt.data.labels import THRESHOLD

NUM_BINS = 10  # of the calibration


@dataclass(frozen=True)
class LabelMetrics:
    """Of one label: precision, recall and F1 (0 where undefined), and how many texts have it."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence lies in a bin: how many, how confident, how many right."""

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassificationReport:
    """The figures of a set of predictions.

    Attributes:
        accuracy: share of right predictions; of several labels a text, of texts of which all are.
        macro_f1: the mean F1 of the labels; micro_f1: of all decisions together.
        calibration_error: expected calibration error (Naeini et al., 2015): the mean distance
            between confidence and accuracy of the bins, weighted by their counts.
        labels: each by itself.
        confusion: of one label a text, (true, predicted) counts; else None.
        bins: of the calibration, without empty ones.
    """

    examples: int
    accuracy: float
    macro_f1: float
    micro_f1: float
    calibration_error: float
    labels: list[LabelMetrics]
    confusion: list[list[int]] | None
    bins: list[CalibrationBin]

    def summary(self) -> dict[str, Any]:
        """The figures of all labels together."""
        names = ("examples", "accuracy", "macro_f1", "micro_f1", "calibration_error")
        return {name: getattr(self, name) for name in names}


def report(
    probabilities: np.ndarray, targets: np.ndarray, names: Sequence[str]
) -> ClassificationReport:
    """The figures of predictions.

    Args:
        probabilities: (N, labels).
        targets: (N,) numbers of labels; (N, labels) of 0 and 1 where a text may have several.
    """
    multi_label, count = targets.ndim == 2, len(names)
    if multi_label:
        chosen, wanted = probabilities >= THRESHOLD, targets > 0.5
        right, confidence = chosen == wanted, np.maximum(probabilities, 1 - probabilities)
        accuracy = right.all(axis=1).mean()
    else:
        predicted = probabilities.argmax(axis=1)
        chosen, wanted = (np.eye(count, dtype=bool)[x] for x in (predicted, targets))
        right, confidence = predicted == targets, probabilities.max(axis=1)
        accuracy = right.mean()
    labels = _labels(chosen, wanted, names)
    both = _ratio(2.0 * (chosen & wanted).sum(), chosen.sum() + wanted.sum())
    bins = calibration(confidence.ravel(), right.ravel())
    return ClassificationReport(
        examples=len(targets),
        accuracy=float(accuracy),
        macro_f1=float(np.mean([label.f1 for label in labels])),
        micro_f1=both,
        calibration_error=_expected_error(bins),
        labels=labels,
        confusion=None if multi_label else confusion_matrix(targets, predicted, count).tolist(),
        bins=bins,
    )


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """How often each label (rows) was predicted as each (columns): (labels, labels)."""
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def calibration(confidence: np.ndarray, right: np.ndarray) -> list[CalibrationBin]:
    """`NUM_BINS` bins of equal width, those with predictions.

    Args:
        confidence: (N,) probability given to each prediction. right: (N,) whether it is right.
    """
    number = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    found = []
    for i in np.unique(number).tolist():
        inside = number == i
        found.append(
            CalibrationBin(
                lower=i / NUM_BINS,
                upper=(i + 1) / NUM_BINS,
                count=int(inside.sum()),
                confidence=float(confidence[inside].mean()),
                accuracy=float(right[inside].mean()),
            )
        )
    return found


def _expected_error(bins: Sequence[CalibrationBin]) -> float:
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.confidence - b.accuracy) for b in bins) / total if total else 0.0


def _labels(chosen: np.ndarray, wanted: np.ndarray, names: Sequence[str]) -> list[LabelMetrics]:
    """Of each label; `chosen` and `wanted` are (N, labels) bool."""
    hits, predicted, support = ((x.sum(axis=0)) for x in (chosen & wanted, chosen, wanted))
    return [
        LabelMetrics(
            label=name,
            precision=_ratio(hits[i], predicted[i]),
            recall=_ratio(hits[i], support[i]),
            f1=_ratio(2.0 * hits[i], predicted[i] + support[i]),
            support=int(support[i]),
        )
        for i, name in enumerate(names)
    ]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
