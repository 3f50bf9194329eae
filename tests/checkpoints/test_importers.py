"""Models from elsewhere: KerasNLP presets, nanoGPT checkpoints, the hub; and what is refused."""

import json
import os
import pickle

import keras
import numpy as np
import pytest

from kgpt import backend
from kgpt.checkpoints.importers import import_from
from kgpt.checkpoints.pretrained import load_model
from kgpt.cli import main
from kgpt.errors import CheckpointError, KgptError, UsageError
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import write_tiny_model

pytestmark = [pytest.mark.backend, pytest.mark.portable]
IDS = np.random.default_rng(0).integers(0, 259, (2, 12))


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Commands neither start the process anew nor close its standard error."""
    for command in ("export", "import_"):
        for name in ("prepare_process", "silence_native_code"):
            monkeypatch.setattr(f"kgpt.cli.{command}.{name}", lambda: None)


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def kgpt(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code


def test_a_preset_of_keras_nlp(tmp_path, out):
    keras_nlp = pytest.importorskip("keras_nlp")
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=259, num_layers=2, num_heads=2, hidden_dim=16, intermediate_dim=40,
        max_sequence_length=32,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    for weight in backbone.weights:
        weight.assign(weight.numpy() + rng.normal(0, 0.3, weight.shape))
    theirs = keras_nlp.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    theirs.save_to_preset(str(tmp_path / "preset"))
    with pytest.raises(UsageError, match="--tokenizer"):
        import_from(str(tmp_path / "preset"), out)
    import_from(str(tmp_path / "preset"), out, Tokenizer.of_bytes())
    inputs = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    expected = keras.ops.convert_to_numpy(theirs(inputs))
    found = keras.ops.convert_to_numpy(load_model(out)(IDS))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def nanogpt(path, **changes):
    """A checkpoint as nanoGPT writes it, and the logits of its model."""
    torch = pytest.importorskip("torch")
    from tests.checkpoints.nanogpt import tiny_nanogpt

    return backend.to_host(tiny_nanogpt(torch, path, IDS, **changes))


@pytest.mark.parametrize("bias", [True, False])
def test_a_nanogpt_checkpoint(bias, tmp_path, out):
    expected = nanogpt(tmp_path / "ckpt.pt", bias=bias)
    import_from(str(tmp_path / "ckpt.pt"), out, Tokenizer.of_bytes())
    found = keras.ops.convert_to_numpy(load_model(out)(IDS))
    np.testing.assert_allclose(found, expected, atol=1e-4)


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path, out):
    torch = pytest.importorskip("torch")
    target = str(tmp_path / "escaped")
    torch.save({"model": Evil(target), "model_args": {}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        import_from(str(tmp_path / "ckpt.pt"), out, Tokenizer.of_bytes())
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(target)))
    with pytest.raises(CheckpointError):
        import_from(str(tmp_path / "plain.pt"), out, Tokenizer.of_bytes())
    assert not os.path.exists(target) and not list(out.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"not a checkpoint at all"])
def test_what_is_no_checkpoint(content, tmp_path, out):
    pytest.importorskip("torch")
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        import_from(str(tmp_path / "ckpt.pt"), out, Tokenizer.of_bytes())
    assert "\n" not in str(caught.value)


def test_the_hub_without_a_network(monkeypatch, out, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KgptError, match="cannot be reached|Could not download") as caught:
        import_from("nobody/nothing-at-all", out)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no file, no folder"):
        import_from("../nothing", out)


def test_the_command_leaves_nothing_half_written(tmp_path, capsys):
    source = tmp_path / "model"
    write_tiny_model(source, "gpt2")
    target = str(tmp_path / "out")
    assert kgpt("import", str(source), "--out", target, "--dtype", "bfloat16") == 0
    assert "0.0 M parameters" in capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"
    assert kgpt("import", str(source), "--out", target) == 2
    assert "exists already" in capsys.readouterr().err
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    assert kgpt("import", str(source), "--out", str(tmp_path / "other")) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out", "runs"} - (
        set() if (tmp_path / "runs").exists() else {"runs"}
    )


@pytest.mark.parametrize("form", ["hf", "keras"])
def test_what_is_exported_gives_the_same_logits(form, tmp_path):
    source = tmp_path / "model"
    model = load_model(write_tiny_model(source, "gpt2"))
    assert kgpt("export", "--model", str(source), "--format", form, "--out",
                str(tmp_path / "out")) == 0  # fmt: skip
    if form == "hf":
        again = load_model(tmp_path / "out")
    else:
        again = keras.saving.load_model(tmp_path / "out" / "model.keras")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(again(IDS)), keras.ops.convert_to_numpy(model(IDS))
    )


def test_a_mixture_has_no_hugging_face_form(tmp_path, capsys):
    write_tiny_model(tmp_path / "model", "sinusoidal")
    out = str(tmp_path / "out")
    assert kgpt("export", "--model", str(tmp_path / "model"), "--format", "hf", "--out", out) == 1
    assert "only kgpt can run" in capsys.readouterr().err
    assert kgpt("export", "--model", str(tmp_path / "model"), "--format", "hff", "--out", out) == 2
    assert "did you mean hf?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_special_tokens_beyond_the_vocabulary_are_harmless(tmp_path, out):
    """As in a model whose padding token was added without resizing its embeddings."""
    folder = write_tiny_model(tmp_path / "model", "gpt2")
    tokenizer = Tokenizer.load(folder)
    tokenizer.backend_tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(folder)
    import_from(str(folder), out)
    assert Tokenizer.load(out).vocab_size == load_model(out).config.vocab_size + 1
    tokenizer.backend_tokenizer.add_tokens(["Anna"])
    tokenizer.save(folder)
    with pytest.raises(CheckpointError, match="by --tokenizer"):
        import_from(str(folder), out)
