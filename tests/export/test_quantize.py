"""`kgpt quantize` and `kgpt info` on a model that has learned something."""

import json
import re

import numpy as np
import pytest

from kgpt.checkpoints.pretrained import save_model
from kgpt.cli import main
from kgpt.config import ModelConfig
from kgpt.data.shards import TokenStream
from kgpt.evaluation.perplexity import perplexity
from kgpt.text.tokenizer import Tokenizer
from tests.tiny import tiny_model

pytestmark = [pytest.mark.backend, pytest.mark.portable]
TEXT = "the quick brown fox jumps over the lazy dog. " * 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model directory that knows one sentence, and the sentence as a file."""
    import keras

    from kgpt import NextTokenLoss

    folder = tmp_path_factory.mktemp("trained") / "model"
    folder.mkdir()
    tokenizer = Tokenizer.of_bytes()
    model = tiny_model(num_heads=2)
    ids = np.array(tokenizer.encode(TEXT))
    starts = np.random.default_rng(0).integers(0, len(ids) - 33, 640)
    windows = ids[starts[:, None] + np.arange(33)]
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss=NextTokenLoss())
    model.fit(windows[:, :-1], windows[:, 1:], batch_size=16, epochs=2, verbose=0)
    save_model(model, folder, tokenizer)
    (folder.parent / "text.txt").write_text(TEXT)
    return folder, folder.parent / "text.txt"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """The command may neither start this process anew nor take its standard error."""
    monkeypatch.setattr("kgpt.cli.quantize.prepare_process", lambda: None)
    monkeypatch.setattr("kgpt.cli.quantize.silence_native_code", lambda: None)


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code


@pytest.mark.parametrize(("bits", "change"), [(8, 0.02), (4, 0.25)])
def test_quantizing_costs_little(trained, tmp_path, bits, change):
    folder, text = trained
    out = tmp_path / "small"
    assert run("quantize", "--model", folder, "--out", out, "--bits", bits, "--quiet") == 0
    stream = TokenStream([np.array(Tokenizer.load(out).encode(text.read_text()))])
    before, after = (perplexity(model, stream, 1000) for model in (folder, out))
    assert before < 4  # it has learned the sentence
    assert after != before
    assert abs(after / before - 1) < change


def test_sizes_and_perplexity_are_shown(trained, tmp_path, capfd):
    folder, text = trained
    arguments = ("--out", tmp_path / "small", "--data", text, "--tokens", 500)
    assert run("quantize", "--model", folder, *arguments) == 0
    table = capfd.readouterr().out
    assert re.search(r"weights on disk.*1\d\d kB.*\d\d\.\d kB.*3\.\dx smaller", table)
    assert re.search(r"weights in memory.*1\d\d kB.*\d\d\.\d kB.*3\.\dx smaller", table)
    assert re.search(r"perplexity.*\d\.\d{4}.*\d\.\d{4}.*[+-]\d\.\d\d%", table)


def test_wrong_commands_are_answered_with_a_sentence(trained, tmp_path, capsys):
    folder, text = trained
    out = tmp_path / "out"
    assert run("quantize", "--model", folder, "--out", out, "--bits", 5) == 2
    assert "must be 8 or 4" in capsys.readouterr().err
    assert run("quantize", "--model", folder, "--out", text.parent) == 2
    assert "exists already" in capsys.readouterr().err
    assert not out.exists()


def test_nothing_is_left_of_what_fails(trained, tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("kgpt.checkpoints.convert.sha256", interrupted)
    assert run("quantize", "--model", trained[0], "--out", tmp_path / "here" / "out") == 130
    assert list((tmp_path / "here").iterdir()) == []


def test_info_shows_architecture_size_and_tokenizer(trained, capsys):
    assert run("info", trained[0], "--json") == 0
    info = json.loads(capsys.readouterr().out)
    config = ModelConfig(**info["architecture"])
    assert info["parameters"]["total"] == config.num_parameters()
    assert info["weights"]["float32"] == 4 * config.num_parameters()
    assert info["cache_per_token"]["float32"] == 2 * 2 * 32 * 4
    assert info["cache_at_full_context"]["bfloat16"] == 32 * 2 * 2 * 32 * 2
    assert info["tokenizer"]["vocab_size"] == config.vocab_size
    assert info["model_type"] == "gpt2"
    assert run("info", trained[0]) == 0
    assert "gpt2: 2 layers of 32" in capsys.readouterr().out.replace("\n", " ")
