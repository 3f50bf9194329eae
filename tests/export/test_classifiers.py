"""A classifier in each format that can hold one gives the scores of `kgpt classify predict`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from tokenizers import Tokenizer as InnerTokenizer
from tokenizers import normalizers

from kgpt import backend
from kgpt.checkpoints.classifiers import load_classifier
from kgpt.checkpoints.convert import export_hugging_face, quantize_model
from kgpt.errors import UsageError
from kgpt.evaluation.perplexity import validation_tokens
from kgpt.export.gguf import export_gguf
from kgpt.export.keras_file import export_keras
from kgpt.export.onnx import export_onnx
from kgpt.export.savedmodel.classifier import ServedClassifier
from kgpt.export.savedmodel.export import write_saved_model
from kgpt.text.tokenizer import Tokenizer
from tests.cli.running import kgpt as run_kgpt
from tests.generation.test_text_classifier import LABELS, TEXTS, write_classifier

on_tensorflow = pytest.mark.skipif(backend.name != "tensorflow", reason="traces a TF graph")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "classifier"
    write_classifier(folder)
    return folder


def ranked(scores):
    """Labels and scores, the most probable first."""
    return sorted(scores.items(), key=lambda entry: -entry[1])


@on_tensorflow
def test_the_saved_model_classifies_as_the_command_does(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KGPT_RESTARTED", "1")
    target = tmp_path / "moods" / "1"
    target.mkdir(parents=True)
    assert write_saved_model(folder, target) == {}
    served = tf.saved_model.load(str(target)).signatures
    assert set(served) == {"serving_default", "classify", "classify_ids", "tokenize"}
    given = [word for text in TEXTS for word in ("--text", text)]
    code, out, _ = run_kgpt(capsys, "classify", "predict", "--model", folder, *given)
    assert code == 0
    ids = [list(text.encode())[:32] for text in TEXTS if text]
    padded = [row + [-1] * (32 - len(row)) for row in ids]
    by_text = served["classify"](texts=tf.constant(TEXTS))
    by_ids = served["classify_ids"](ids=tf.constant(padded))
    for row, line in enumerate(out.splitlines()):
        wanted = ranked(json.loads(line)["scores"])
        labels = [name.decode() for name in by_text["labels"][row].numpy()]
        assert labels == [name for name, _ in wanted]
        np.testing.assert_allclose(by_text["scores"][row], [p for _, p in wanted], atol=1e-5)
    filled = [row for row, text in enumerate(TEXTS) if text]
    np.testing.assert_allclose(by_ids["scores"], by_text["scores"].numpy()[filled], atol=1e-6)
    body = json.loads((target / "assets.extra" / "requests" / "rest.json").read_text())
    assert body["signature_name"] == "classify"
    assert "`classify`: texts" in (target / "assets.extra" / "README.md").read_text()


@on_tensorflow
def test_without_a_tokenizer_in_the_graph_ids_are_classified(folder):
    inner = InnerTokenizer.from_str(Tokenizer.load(folder).to_json())
    inner.normalizer = normalizers.NFC()
    served = ServedClassifier(load_classifier(folder), Tokenizer(inner))
    assert set(served.signatures) == {"serving_default", "classify_ids"}
    assert "it normalises text (NFC)" in served.missing["classify"]


@pytest.mark.backend
@pytest.mark.portable
def test_other_formats_hold_the_same_classifier(folder, tmp_path):
    ids = np.array([list(TEXTS[3].encode()[:32])], "int32")

    def logits(model):
        return keras.ops.convert_to_numpy(model(ids))

    wanted = logits(load_classifier(folder))
    for name, write in {
        "hf": export_hugging_face,
        "keras": export_keras,
        "int8": lambda source, out: quantize_model(source, out, 8),
        "int4": lambda source, out: quantize_model(source, out, 4),
    }.items():
        (tmp_path / name).mkdir()
        write(folder, tmp_path / name)
        if name == "keras":
            model = keras.saving.load_model(tmp_path / name / "model.keras")
        else:
            model = load_classifier(tmp_path / name)
        assert list(model.labels) == LABELS
        close = {"int8": 0.05, "int4": 0.5}.get(name, 1e-6)
        np.testing.assert_allclose(logits(model), wanted, atol=close * np.abs(wanted).max())
    stored = load_file(tmp_path / "int4" / "model.int4.safetensors")
    assert {name for name in stored if "score" in name} == {
        "score.weight.int8", "score.weight.int8.scale",
    }  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_onnx_graph_has_its_logits(architecture, tmp_path):
    pytest.importorskip("onnx")
    session_of = pytest.importorskip("onnxruntime").InferenceSession
    model = write_classifier(tmp_path / "model", architecture=architecture)
    (tmp_path / "out").mkdir()
    export_onnx(tmp_path / "model", tmp_path / "out")
    ids = np.random.default_rng(0).integers(1, 250, (2, 9))
    mask = np.arange(9) < np.array([[9], [4]])
    session = session_of(str(tmp_path / "out" / "model.onnx"))
    given = {"input_ids": ids, "attention_mask": mask.astype("int64")}
    padded = np.where(mask, ids, model.pad_id).astype("int32")
    wanted = keras.ops.convert_to_numpy(model(padded))
    np.testing.assert_allclose(session.run(["logits"], given)[0], wanted, atol=1e-4)
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(values["id2label"].values()) == LABELS


def test_gguf_refuses_it(folder, tmp_path):
    pytest.importorskip("gguf")
    with pytest.raises(UsageError, match=r"is a classifier, .*give the format savedmodel"):
        export_gguf(folder, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_classifier_has_no_perplexity(folder):
    with pytest.raises(UsageError, match="is a classifier, which has no perplexity"):
        validation_tokens("text.txt", folder)
