"""The classifier: what its logits depend on, its loss against NumPy, what trains, what is saved."""

import keras
import numpy as np
import pytest

import kgpt
from kgpt import ClassificationLoss, Classifier
from kgpt.checkpoints.classifiers import load_classifier, new_classifier
from kgpt.checkpoints.pretrained import load_model, path_below, save_model
from kgpt.errors import CheckpointError, UsageError
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import tiny_config, write_tiny_model

pytestmark = pytest.mark.backend

LABELS = ["a", "b", "c"]
PAD = 258
IDS = np.random.default_rng(0).integers(0, 256, (4, 6)).astype("int32")


@pytest.fixture(scope="module")
def model():
    return Classifier(tiny_config("llama", tie_embeddings=False), LABELS, pad_id=PAD, seed=3)


def run(model, ids):
    return keras.ops.convert_to_numpy(model(ids))


def test_padding_changes_nothing(model):
    padded = np.pad(IDS, ((0, 0), (0, 5)), constant_values=PAD)
    np.testing.assert_allclose(run(model, padded), run(model, IDS), atol=1e-6)


def test_the_logits_are_those_of_the_last_token(model):
    hidden = keras.ops.convert_to_numpy(model.hidden_states(IDS))
    head = model.head.variable.numpy()
    np.testing.assert_allclose(run(model, IDS), hidden[:, -1] @ head.T, atol=1e-6)
    changed = IDS.copy()
    changed[:, -1] += 1
    assert np.abs(run(model, changed) - run(model, IDS)).max() > 1e-4


@pytest.mark.parametrize("multi_label", [False, True])
def test_probabilities(model, multi_label):
    logits = np.array([[0.0, np.log(3.0), 0.0]], "float32")
    other = Classifier(tiny_config(num_layers=1), LABELS, multi_label)
    found = keras.ops.convert_to_numpy(other.probabilities(logits))
    wanted = [[0.5, 0.75, 0.5]] if multi_label else [[0.2, 0.6, 0.2]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_labels_are_checked():
    for labels, multi_label in ((["a"], False), ([], True)):
        with pytest.raises(UsageError, match="too few labels"):
            Classifier(tiny_config(), labels, multi_label)
    with pytest.raises(UsageError, match="differ"):
        Classifier(tiny_config(), ["a", "a"])
    with pytest.raises(UsageError, match="generates no text"):
        Classifier(tiny_config(num_layers=1), LABELS).generate([1])


# -- the loss ------------------------------------------------------------------------------------

LOGITS = np.random.default_rng(1).normal(size=(5, 3)).astype("float32")
ONE = np.array([0, 2, 1, 1, 0])
SEVERAL = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]])
WEIGHTS = [1.0, 2.0, 0.5]


def by_numpy(targets, smoothing, weights):
    """The mean over the texts, from the definitions."""
    logits = LOGITS.astype("float64")
    if targets.ndim == 1:
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        smooth = np.eye(3)[targets] * (1 - smoothing) + smoothing / 3
        return (-(smooth * logp).sum(-1) * np.array(weights)[targets]).mean()
    p = 1 / (1 + np.exp(-logits))
    smooth = targets * (1 - smoothing) + smoothing / 2
    return -(smooth * weights * np.log(p) + (1 - smooth) * np.log(1 - p)).mean()


@pytest.mark.parametrize("targets", [ONE, SEVERAL], ids=["one", "several"])
@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, None), (0.1, WEIGHTS)])
def test_the_loss_equals_numpy(targets, smoothing, weights):
    loss = ClassificationLoss(targets.ndim == 2, weights, smoothing)
    found = float(loss(targets, LOGITS))
    assert found == pytest.approx(by_numpy(targets, smoothing, weights or np.ones(3)), rel=1e-5)
    again = ClassificationLoss.from_config(loss.get_config())
    assert float(again(targets, LOGITS)) == found


def test_a_text_of_weight_0_counts_for_nothing():
    loss = ClassificationLoss()
    weights = np.array([1, 1, 1, 0, 0], "float32")
    alone = float(loss(ONE[:3], LOGITS[:3]))
    assert float(loss(ONE, LOGITS, sample_weight=weights)) == pytest.approx(alone, rel=1e-6)


# -- training and files ----------------------------------------------------------------------------


def test_fit_learns_and_a_keras_file_goes_on(tmp_path):
    y = np.array([0, 1, 2, 1])
    model = Classifier(tiny_config(num_layers=1), LABELS, pad_id=PAD)
    model.compile(kgpt.AdamW(1e-2), ClassificationLoss())
    assert set(model.evaluate(IDS, y, verbose=0, return_dict=True)) == {"loss"}
    losses = model.fit(IDS, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.1 < 0.9 < losses[0]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (again.labels, again.pad_id) == (tuple(LABELS), PAD)
    both = [m.fit(IDS, y, epochs=2, verbose=0).history["loss"] for m in (model, again)]
    np.testing.assert_allclose(both[1], both[0], rtol=1e-4)


def test_the_loss_from_hidden_states_is_that_of_the_logits(model):
    y = np.array([0, 1, 2, 1])
    model.compile("sgd", ClassificationLoss())
    from_states = model.evaluate(IDS, y, verbose=0)
    assert from_states == pytest.approx(float(ClassificationLoss()(y, run(model, IDS))), rel=1e-5)


def test_the_head_trains_with_adapters():
    model = Classifier(tiny_config(num_layers=1), LABELS, pad_id=PAD)
    before = len(model.trainable_variables)
    kgpt.add_lora(model, rank=2, target_modules=["c_attn"])
    names = [path_below(v).rpartition("/")[2] for v in model.trainable_variables]
    assert sorted(names) == ["c_attn_lora_a", "c_attn_lora_b", "score"]
    kgpt.merge_lora(model)
    assert len(model.trainable_variables) == before and model.adapter_config is None


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A language model's directory."""
    options = {"tie_embeddings": False, "num_layers": 1}
    return write_tiny_model(tmp_path_factory.mktemp("models") / "base", **options)


def test_a_new_classifier_has_the_weights_of_a_language_model(base, tmp_path):
    model = Classifier.from_pretrained(base, labels=LABELS)
    theirs = {path_below(v): v.numpy() for v in load_model(base).weights}
    for variable in model.weights:
        if (path := path_below(variable)) == "score":
            assert 0.01 < variable.numpy().std() < 0.03
        else:
            np.testing.assert_array_equal(variable.numpy(), theirs[path])
    assert model.pad_id == Tokenizer.load(base).eos_id
    model.save_pretrained(tmp_path / "saved", Tokenizer.load(base))
    again = Classifier.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(run(again, IDS), run(model, IDS))
    further = new_classifier(tmp_path / "saved", LABELS)  # its head is kept
    np.testing.assert_array_equal(run(further, IDS), run(model, IDS))
    others = new_classifier(tmp_path / "saved", ["x", "y"])
    assert run(others, IDS).shape == (4, 2)


def test_neither_kind_is_loaded_as_the_other(base, tmp_path):
    with pytest.raises(UsageError, match="is no classifier; `kgpt classify train"):
        load_classifier(base)
    save_model(new_classifier(base, LABELS), tmp_path)
    with pytest.raises(UsageError, match="generates no text; `kgpt classify`"):
        load_model(tmp_path)


def test_labels_that_are_not_numbered_are_refused(base, tmp_path):
    save_model(new_classifier(base, LABELS), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"2": "c"', '"7": "c"'))
    with pytest.raises(CheckpointError, match="number its labels"):
        load_classifier(tmp_path)
