"""The figures of a classifier equal scikit-learn's; its calibration, by hand."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from kgpt.training.classification_metrics import calibration, report

NAMES = ["a", "b", "c", "never"]


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.default_rng(request.param)


def check(found, wanted, predicted):
    options = {"labels": range(4), "zero_division": 0}
    for average in ("macro", "micro"):
        theirs = f1_score(wanted, predicted, average=average, **options)
        assert getattr(found, f"{average}_f1") == pytest.approx(theirs)
    assert found.accuracy == pytest.approx(accuracy_score(wanted, predicted))
    table = precision_recall_fscore_support(wanted, predicted, **options)
    ours = [(x.precision, x.recall, x.f1, x.support) for x in found.labels]
    np.testing.assert_allclose(np.array(ours).T, table)


def test_one_label_a_text(rng):
    probabilities = rng.dirichlet(np.ones(4), 200)
    targets = rng.integers(0, 3, 200)
    predicted = probabilities.argmax(1)
    found = report(probabilities, targets, NAMES)
    check(found, targets, predicted)
    assert found.confusion == confusion_matrix(targets, predicted, labels=range(4)).tolist()
    assert found.examples == 200 and set(found.summary()) >= {"accuracy", "macro_f1"}


def test_several_labels_a_text(rng):
    probabilities = rng.random((200, 4))
    targets = (rng.random((200, 4)) < [0.5, 0.2, 0.7, 0]).astype(int)
    found = report(probabilities, targets, NAMES)
    check(found, targets, (probabilities >= 0.5).astype(int))
    assert found.confusion is None


def test_calibration_by_hand():
    confidence = np.array([0.55, 0.59, 0.9, 0.95, 1.0])
    right = np.array([True, False, True, True, False])
    low, high = calibration(confidence, right)
    assert (low.lower, low.count, low.accuracy) == (0.5, 2, 0.5)
    assert (high.upper, high.count, high.confidence) == (1.0, 3, pytest.approx(0.95))
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = report(probabilities, np.where(right, 0, 1), ["a", "b"])
    wanted = 2 / 5 * abs(0.57 - 0.5) + 3 / 5 * abs(0.95 - 2 / 3)
    assert found.calibration_error == pytest.approx(wanted)


def test_a_perfect_classifier_has_no_error():
    targets = np.array([0, 1, 2, 1])
    found = report(np.eye(3)[targets], targets, NAMES[:3])
    assert (found.accuracy, found.macro_f1, found.calibration_error) == (1, 1, 0)
