"""BLEU and ROUGE equal the metrics of keras_nlp."""

import pytest

from kgpt.evaluation.text_metrics import rouge_scores, sacrebleu_scores

TEXTS = ["the cat sat on the mat .", "a dog ran off to the woods", "it is far , he said"]
REFERENCES = ["the cat sat on a mat .", "a dog ran away to the woods", "it is too far , she said"]


@pytest.mark.slow  # keras_nlp is imported, and with it TensorFlow
def test_bleu_and_rouge_are_keras_nlps():
    metrics = pytest.importorskip("keras_nlp").metrics
    ours = [[reference] for reference in REFERENCES]
    bleu = metrics.Bleu()
    bleu.update_state([[reference] for reference in REFERENCES], TEXTS)
    overall = sacrebleu_scores(TEXTS, ours)["bleu"].value
    assert overall / 100 == pytest.approx(float(bleu.result()), rel=1e-5)
    rouge = rouge_scores(TEXTS, ours)
    for name, metric in (
        ("rouge_1", metrics.RougeN(order=1)),
        ("rouge_2", metrics.RougeN(order=2)),
        ("rouge_l", metrics.RougeL()),
    ):
        metric.update_state(REFERENCES, TEXTS)
        theirs = float(metric.result()["f1_score"])
        assert rouge[name].value == pytest.approx(theirs, rel=1e-5), name
