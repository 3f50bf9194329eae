"""Texts classified through the engine: as the model alone, in any batch, in every format."""

import keras
import numpy as np
import pytest

from kgpt import Classifier, TextClassifier, Tokenizer, backend
from kgpt.checkpoints.pretrained import save_model
from kgpt.errors import UsageError
from tests.tiny import tiny_config, write_tiny_model

pytestmark = [pytest.mark.backend, pytest.mark.portable]

LABELS = ["calm", "angry", "naïve 🙂"]
TEXTS = ["a", "", "some words", "x" * 40, "O, speak again, bright angel!"]


def write_classifier(folder, multi_label=False, architecture="llama"):
    tokenizer = Tokenizer.of_bytes()
    config = tiny_config(architecture, num_layers=1, initializer_range=0.3)
    model = Classifier(config, LABELS, multi_label, pad_id=tokenizer.eos_id, seed=4)
    folder.mkdir()
    save_model(model, folder, tokenizer)
    return model


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "classifier"
    return folder, write_classifier(folder)


@pytest.fixture(scope="module")
def classifier(written):
    with TextClassifier(written[0]) as classifier:
        classifier.warm_up()
        yield classifier


def alone(model, text):
    """The probabilities that the model by itself gives the first 32 bytes of a text."""
    ids = np.array([list(text.encode())[:32] or [model.pad_id]], "int32")
    return keras.ops.convert_to_numpy(model.probabilities(model(ids)))[0]


def test_probabilities_are_those_of_the_model(written, classifier):
    wanted = [alone(written[1], text) for text in TEXTS]
    np.testing.assert_allclose(classifier.probabilities(TEXTS), wanted, atol=1e-5)
    found = classifier.classify(TEXTS)
    assert [one.label for one in found] == [LABELS[row.argmax()] for row in wanted]
    assert [one.labels for one in found] == [(one.label,) for one in found]
    assert list(found[0].scores) == LABELS
    assert found[0].as_dict() == {"label": found[0].label, "scores": found[0].scores}


def test_a_text_does_not_depend_on_its_batch(classifier):
    together = classifier.probabilities(TEXTS)
    each = np.concatenate([classifier.probabilities([text]) for text in TEXTS])
    np.testing.assert_allclose(each, together, atol=1e-5)
    assert classifier.probabilities([]).shape == (0, 3)


def test_several_labels(tmp_path):
    model = write_classifier(tmp_path / "several", multi_label=True, architecture="gpt2")
    with TextClassifier(tmp_path / "several", dtype="int8") as classifier:
        probabilities = classifier.probabilities(TEXTS[:2])
        found = classifier.classify(TEXTS[:2])
    np.testing.assert_allclose(probabilities, [alone(model, t) for t in TEXTS[:2]], atol=0.1)
    for one, row in zip(found, probabilities, strict=True):
        ranked = [LABELS[i] for i in np.argsort(-row) if row[i] >= 0.5]
        assert list(one.labels) == one.as_dict()["labels"] == ranked


def test_a_language_model_is_refused(tmp_path):
    write_tiny_model(tmp_path / "model")
    with pytest.raises(UsageError, match="is no classifier"):
        TextClassifier(tmp_path / "model")
    assert backend.name
