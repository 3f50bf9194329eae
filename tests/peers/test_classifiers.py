"""Classifiers of `transformers` in kgpt, and kgpt's in `transformers`: the same logits."""

import json

import keras
import numpy as np
import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402

from kgpt import backend  # noqa: E402
from kgpt.checkpoints.classifiers import load_classifier  # noqa: E402
from kgpt.checkpoints.pretrained import save_model  # noqa: E402
from kgpt.config import ModelConfig  # noqa: E402
from kgpt.model.classifier import Classifier  # noqa: E402
from tests.peers.test_transformers import GPT2, SHARED  # noqa: E402

pytestmark = pytest.mark.backend

LABELS = {0: "calm", 1: "angry", 2: "naïve 🙂"}
THEIRS = {"GPT2": GPT2, "Llama": SHARED, "Qwen2": {**SHARED, "tie_word_embeddings": True}}
ROTARY = {"position": "rotary", "norm": "rms", "activation": "swiglu", "bias": False}
OURS = {
    "GPT2": {},
    "Llama": {**ROTARY, "num_kv_heads": 2, "tie_embeddings": False},
    "Qwen3": {**ROTARY, "qk_norm": True},
}
SIZE = {"vocab_size": 97, "max_length": 32, "num_layers": 2, "num_heads": 4, "hidden_dim": 32}
PAD = 5
IDS = np.random.default_rng(1).integers(6, 97, (3, 12)).astype("int32")
IDS[0, 4:], IDS[1, 9:] = PAD, PAD
IDS[2, 6] = PAD  # within a text it is a token like any other


def run(model):
    compiled = backend.jit(model.__call__, model.variables)
    return keras.ops.convert_to_numpy(compiled(IDS))


def run_theirs(model):
    with torch.no_grad():
        return backend.to_host(model(torch.tensor(IDS.astype("int64"))).logits)


@pytest.mark.parametrize("kind", THEIRS)
def test_their_classifier_has_the_same_logits_in_kgpt(kind, tmp_path):
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(
        **THEIRS[kind], id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
        pad_token_id=PAD,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path)
    ours = load_classifier(tmp_path)
    assert ours.labels == tuple(LABELS.values()) and not ours.multi_label
    np.testing.assert_allclose(run(ours), run_theirs(model), atol=1e-4)


@pytest.mark.parametrize("kind", OURS)
def test_a_saved_classifier_has_the_same_logits_in_transformers(kind, tmp_path):
    config = ModelConfig(**SIZE, **OURS[kind], initializer_range=0.3)
    multi_label = kind == "Llama"
    model = Classifier(config, list(LABELS.values()), multi_label, pad_id=PAD, seed=2)
    save_model(model, tmp_path)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(loaded).__name__ == f"{kind}ForSequenceClassification"
    assert loaded.config.id2label == LABELS
    problem = "multi_label_classification" if multi_label else "single_label_classification"
    assert loaded.config.problem_type == problem
    np.testing.assert_allclose(run(model), run_theirs(loaded), atol=1e-4)
    again = load_classifier(tmp_path)
    assert (again.labels, again.multi_label, again.pad_id) == (model.labels, multi_label, PAD)
    np.testing.assert_array_equal(run(again), run(model))


def test_two_labels_without_names_are_called_as_theirs(tmp_path):
    config = transformers.GPT2Config(**GPT2, pad_token_id=PAD)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values.pop("id2label", None)
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert load_classifier(tmp_path).labels == ("LABEL_0", "LABEL_1")
