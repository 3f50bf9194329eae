"""Runs that train classifiers: what they learn, resume exactly, store, and refuse."""

import csv
import json

import numpy as np
import pytest

from kgpt import Classifier, TextClassifier
from kgpt.checkpoints.publish import plan_upload
from kgpt.config import Config
from kgpt.errors import DataError, RunError, UsageError
from tests.tiny import write_tiny_model
from tests.training.tiny_runs import TINY, Trained

pytestmark = [pytest.mark.backend, pytest.mark.portable]

WORDS = {
    "fruit": ["apple", "pear", "plum"],
    "tool": ["saw", "axe", "drill"],
    "sky": ["sun", "moon"],
}
DRAW = np.random.default_rng(0)


def rows(count=60):
    """Texts, each of a word of its label and noise."""
    for i in range(count):
        label = sorted(WORDS)[i % 3]
        yield f"{DRAW.integers(10, 99)} {DRAW.choice(WORDS[label])}", label


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "words.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([("text", "label"), *rows()])
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "base", "gpt2", num_layers=1)


def config_of(data, model=None, train=None, **sections):
    """The tiny configuration of a classifier."""
    values = {
        "train": {
            **TINY["train"],
            "max_steps": 6,
            "decay_steps": 6,
            "eval_every": 3,
            **(train or {}),
        }
    }
    values["classification"] = {"data": [str(data)], **sections.pop("classification", {})}
    values["finetune"] = {"objective": "classification", **sections.pop("finetune", {})}
    if model is None:
        values["model"] = {**TINY["model"], **sections.pop("model", {})}
        values["classification"]["vocab_size"] = 270
    else:
        values["finetune"]["model"] = str(model)
    return Config.parse(values | sections)


def test_a_new_model_learns_the_labels(data):
    train = {
        "max_steps": 60,
        "decay_steps": 60,
        "eval_every": 30,
        "checkpoint_every": 0,
        "batch_size": 16,
    }
    trained = Trained(config_of(data, train=train))
    last = trained.run.metrics()[-1]
    assert last["val_accuracy"] > 0.9 and last["val_macro_f1"] > 0.9
    assert "accuracy" in trained.shown and "3 labels, 54 training texts, 6 for" in trained.shown
    with TextClassifier(trained.run.checkpoint_path(60)) as classifier:
        assert classifier.labels == ("fruit", "sky", "tool")
        found = classifier.classify(["55 plum", "12 axe", "34 moon"])
    assert [one.label for one in found] == ["fruit", "tool", "sky"]


METHODS = {
    "full": {},
    "frozen": {"finetune": {"freeze_layers": 1}},
    "lora": {"finetune": {"method": "lora"}, "lora": {"rank": 2}},
    "dora": {"finetune": {"method": "dora"}, "lora": {"rank": 2, "target_modules": ["c_attn"]}},
}


@pytest.mark.parametrize("method", ["full", "dora"])
def test_a_resumed_run_repeats_its_losses(data, base, method):
    whole = Trained(config_of(data, base, **METHODS[method]), name="whole")
    half = config_of(data, base, train={"max_steps": 4}, **METHODS[method])
    Trained(half, name="half")
    resumed = Trained(config_of(data, base, **METHODS[method]), name="half", resume=True)
    assert resumed.losses == whole.losses
    assert resumed.run.metrics()[-1]["val_loss"] == whole.run.metrics()[-1]["val_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_is_a_whole_classifier(data, base, method):
    trained = Trained(config_of(data, base, train={"max_steps": 3}, **METHODS[method]))
    folder = trained.run.checkpoint_path(3)
    model = Classifier.from_pretrained(folder)
    assert model.labels == ("fruit", "sky", "tool")
    names = {file.name for file in folder.iterdir()}
    assert ("unmerged.safetensors" in names) == (method in ("lora", "dora"))
    assert "adapter_config.json" not in names
    card = (folder / "README.md").read_text()
    assert "| labels | fruit, sky, tool |" in card and "Sources: words.csv" in card
    assert "made from base" in card and "macro F1" in card
    uploaded = plan_upload(folder, "owner/words")
    assert "unmerged.safetensors" not in {file.name for file in uploaded.files}
    logged = trained.run.metrics()[-1]
    with TextClassifier(folder) as classifier:
        texts = trained.task.val.texts
        probabilities = classifier.probabilities(texts)
    right = probabilities[np.arange(len(texts)), trained.task.val.targets(model.labels, False)]
    assert -np.log(right).mean() == pytest.approx(logged["val_loss"], abs=1e-4)
    before = Classifier.from_pretrained(base, labels=model.labels)
    changed = [
        path.path.partition("/")[2]
        for path, old in zip(model.weights, before.weights, strict=True)
        if np.abs(path.numpy() - old.numpy()).max() > 0
    ]
    assert "score" in changed
    assert any("attention/qkv" in path for path in changed) == (method != "frozen")
    assert ("token_embedding" in changed) == (method == "full")


def test_several_labels_and_weights(data, tmp_path):
    file = tmp_path / "several.jsonl"
    found = [{"body": text, "kinds": [label, "any"]} for text, label in rows(30)]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    options = {
        "text_field": "body", "label_field": "kinds", "multi_label": True,
        "class_weights": "balanced", "val_fraction": 0.2,
    }  # fmt: skip
    trained = Trained(config_of(file, classification=options))
    assert trained.task.labels == ("any", "fruit", "sky", "tool")
    weights = trained.task._loss().class_weights
    assert weights == [1.0, 2.0, 2.0, 2.0]
    with TextClassifier(trained.run.checkpoint_path(6)) as classifier:
        assert classifier.multi_label and len(classifier.classify(["pear"])[0].scores) == 4


def test_what_does_not_fit_is_refused(data, base, tmp_path):
    Trained(config_of(data, base, train={"max_steps": 2, "eval_every": 0}), name="run")
    other = tmp_path / "other.csv"
    other.write_text("text,label\na,x\nb,y\n")
    with pytest.raises(DataError, match="is not the one that the run"):
        Trained(config_of(other, base, train={"eval_every": 0}), name="run", resume=True)
    changed = config_of(data, base, classification={"class_weights": "balanced"})
    with pytest.raises(RunError, match=r"classification\.class_weights"):
        Trained(changed, name="run", resume=True)
    quantized = {"method": "lora", "base_precision": "int8"}
    with pytest.raises(UsageError, match="int8 is not available for classifiers"):
        Trained(config_of(data, base, finetune=quantized), name="int8")
    one = tmp_path / "one.csv"
    one.write_text("text,label\na,x\nb,x\n")
    with pytest.raises(UsageError, match="too few labels"):
        Trained(config_of(one, base), name="one")
