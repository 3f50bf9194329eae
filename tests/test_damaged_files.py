"""Files that are Git LFS pointers, empty, cut short or something else: one sentence each."""

import json
from pathlib import Path

import numpy as np
import pytest

from kgpt.checkpoints.convert import quantize_model
from kgpt.checkpoints.generation_config import load_sampling
from kgpt.checkpoints.hf_config import to_hugging_face
from kgpt.checkpoints.importers import import_from
from kgpt.checkpoints.pretrained import load_config, write_config
from kgpt.checkpoints.weights import Weights, write_weights
from kgpt.cli.generate_file import read_prompts
from kgpt.config import read_yaml
from kgpt.config.parameters import parameter_shapes
from kgpt.data.prepare import prepare
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import KgptError
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import tiny_config

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
TEXT = "It was Monday. Anna went to the park.\n" * 40
DAMAGES = {
    "pointer": lambda data: POINTER,
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "noise": lambda data: bytes(np.random.default_rng(0).integers(0, 256, 99).tolist()),
}


def write_model(folder):
    """A model directory with a chat template in its own file, and a sharded copy, without Keras."""
    config = tiny_config("gpt2", num_layers=1)
    rng = np.random.default_rng(0)
    values = {path: rng.normal(size=shape) for path, shape in parameter_shapes(config)}
    folder.mkdir()
    write_config(folder, config, Tokenizer.of_bytes())
    write_weights(folder, config, values.__getitem__, max_shard_bytes=20_000)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "added_tokens.json").write_text("{}")
    assert to_hugging_face(config)["model_type"] == "gpt2"


def read_model(folder):
    config = load_config(folder)
    Weights(folder, config)
    Tokenizer.load(folder)
    load_sampling(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with one of each kind of thing that kgpt reads."""
    folder = tmp_path_factory.mktemp("made")
    write_model(folder / "model")
    (folder / "int8").mkdir()
    quantize_model(folder / "model", folder / "int8", 8)
    text = folder / "text.txt"
    text.write_text(TEXT)
    prepare(Corpus([str(text)]), Tokenizer.of_bytes(), folder / "data")
    (folder / "rows.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
    (folder / "run.yaml").write_text("train: {seed: 1}\n")
    (folder / "nano.pt").write_bytes(b"PK")
    return folder


def tokens_of(file):
    return [str(text) for text in Corpus([str(file)]).texts()]


READERS = {
    "model/*": lambda file: read_model(file.parent),
    "int8/*": lambda file: read_model(file.parent),
    "data/*": lambda file: TokenDataset(file.parent).tokenizer,
    "text.txt": tokens_of,
    "rows.jsonl": tokens_of,
    "run.yaml": read_yaml,
}


def attempt(made, file, damage):
    """Read a damaged file; the sentence it gives, or None."""
    path, data = made / file, (made / file).read_bytes()
    pattern = next(p for p in READERS if Path(file).match(p))
    path.write_bytes(DAMAGES[damage](data))
    try:
        READERS[pattern](path)
    except KgptError as error:
        return str(error)
    finally:
        path.write_bytes(data)
    return None


def files(made):
    return [
        str(file.relative_to(made))
        for pattern in READERS
        for file in sorted(made.glob(pattern))
        if file.suffix not in (".learn", ".starts")  # read when they are needed
        and file.name != "README.md"  # for people
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence(made, damage):
    """No reader lets another exception out, and a pointer is called by its name."""
    found = files(made)
    assert len(found) > 20
    for file in found:
        sentence = attempt(made, file, damage)
        if damage == "pointer":
            assert sentence, f"{file} was accepted"
            assert "is a Git LFS pointer, not the file itself; run `git lfs pull`" in sentence, file
        if damage == "empty" and file.endswith((".json", ".safetensors")):
            assert sentence, f"{file} was accepted"
        assert sentence is None or (sentence.endswith(".") and "\n" not in sentence), sentence


def test_a_file_of_prompts_and_a_checkpoint_of_nanogpt_likewise(made, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes(POINTER)
    with pytest.raises(KgptError, match="prompts.txt is a Git LFS pointer"):
        read_prompts(str(file))
    pytest.importorskip("torch")
    with pytest.raises(KgptError, match="prompts.txt is a Git LFS pointer"):
        import_from(str(file), tmp_path / "out", Tokenizer.of_bytes())


def test_parquet_likewise(tmp_path):
    pytest.importorskip("pyarrow")
    for name, damage in DAMAGES.items():
        file = tmp_path / f"{name}.parquet"
        file.write_bytes(damage(b"PAR1" + bytes(100)))
        with pytest.raises(KgptError) as caught:
            tokens_of(file)
        expected = {"pointer": "Git LFS pointer", "empty": "is empty"}.get(name, "is damaged")
        assert expected in str(caught.value)
