"""Data sets of the Hub: from a folder that `datasets.load_dataset` reads, and what can go wrong."""

import json

import pytest

from kgpt.cli.data import prepare
from kgpt.data.hub import HubOptions, hub_name
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError

datasets = pytest.importorskip("datasets")

QUESTION = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
CARD = """---
configs:
- {config_name: stories, data_files: [{split: train, path: stories.jsonl}]}
- config_name: talks
  data_files: [{split: train, path: talks.jsonl}, {split: test, path: more.jsonl}]
---
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two configurations, one of them with two splits."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = tmp_path / "set"
    path.mkdir()
    (path / "README.md").write_text(CARD)
    stories = [{"text": f"Story {n}.", "source": "here"} for n in range(4)]
    talks = [{"conversations": QUESTION}] * 3
    for name, rows in {"stories": stories, "talks": talks, "more": talks[:1]}.items():
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def corpus(name, config=None, split="train"):
    return Corpus([f"hf:{name}"], hub=HubOptions(config, split, show_progress=False))


@pytest.mark.parametrize("prefix", ["hf:", "hf://datasets/"])
def test_a_name_is_what_follows_the_prefix(prefix):
    assert hub_name(f"{prefix}owner/name") == "owner/name"
    assert hub_name("owner/name") is None


def test_configurations_and_splits_are_loaded_and_recognized(folder):
    texts = corpus(folder, "stories", "train[:75%]")
    assert texts.notes == [f"hf:{folder}: 3 texts (field 'text'; not used: source)"]
    read = ["".join(document.parts) for document in texts.documents()]
    assert read == ["Story 0.", "Story 1.", "Story 2."]
    assert texts.bytes_read == texts.total_bytes
    talks = corpus(folder, "talks", "test")
    said = "1 conversations (ShareGPT, human → user, gpt → assistant)"
    assert talks.notes == [f"hf:{folder}: {said}"]
    assert [document.messages[1]["content"] for document in talks.documents()] == ["Hello"]


def test_a_data_set_of_the_hub_is_prepared(folder, tmp_path):
    out = tmp_path / "out"
    prepare(
        f"hf:{folder}", out=str(out), tokenizer="byte", dataset_config="talks", quiet=True,
    )  # fmt: skip
    manifest = TokenDataset(out).manifest
    assert manifest.sources == [f"hf:{folder}"]
    assert sum(split.documents for split in manifest.splits.values()) == 3


@pytest.mark.parametrize(
    ("config", "split", "sentence"),
    [
        (None, "train", "has the configurations stories, talks; choose one: --dataset-config"),
        ("other", "train", "has no configuration other; it has: stories, talks"),
        ("talks", "validation", "has no split validation; it has: train, test"),
    ],
)
def test_what_a_data_set_has_not_is_said_with_what_it_has(folder, config, split, sentence):
    with pytest.raises(UsageError, match=sentence):
        corpus(folder, config, split)


def test_a_data_set_that_cannot_be_had_is_a_sentence(folder, monkeypatch):
    with pytest.raises(UsageError, match="There is no data set ./none on the Hugging Face Hub"):
        corpus("./none")
    (folder / "stories.jsonl").write_text('{"text":\n')
    with pytest.raises(DataError, match="cannot be read"):
        corpus(folder, "stories")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="Hub cannot be reached for owner/name; connect"):
        corpus("owner/name")


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(UsageError, match=r"kgpt\[hub\]"):
        corpus("owner/name")
