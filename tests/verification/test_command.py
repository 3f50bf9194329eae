"""`kgpt verify`: the table, the certificate and the exit code; processes that end; all places."""

import json

import pytest

from kgpt.files import sha256
from kgpt.text.tokenizer import Tokenizer
from kgpt.verification import verify as driver
from kgpt.verification.places import Place, all_places
from tests.cli.running import kgpt as cli
from tests.tiny import write_tiny_model


@pytest.fixture
def folder(tmp_path):
    return write_tiny_model(tmp_path / "model", "llama", initializer_range=0.3)


def test_the_certificate_and_the_exit_code(folder, tmp_path, capsys):
    out = tmp_path / "certificate.json"
    code, text, _ = cli(capsys, "verify", folder, "--only", "hf", "--out", out)
    assert code == 0 and "1 places run one model." in text
    assert "weights of exports must be equal" in text.replace("\n", " ")
    certificate = json.loads(out.read_text())
    assert certificate["passed"] and [p["name"] for p in certificate["places"]] == ["hf"]
    assert certificate["hashes"]["model.safetensors"] == sha256(folder / "model.safetensors")
    other = write_tiny_model(tmp_path / "other", "llama", seed=2, initializer_range=0.3)
    code, text, _ = cli(capsys, "verify", folder, "--only", "hf", "--export", other)
    assert code == 1 and "hf: the tensor model.embed_tokens.weight differs in" in text


def test_what_the_command_cannot_do_is_a_sentence(folder, tmp_path, capsys):
    code, _, err = cli(capsys, "verify", folder, "--only", "jacks")
    assert code == 2 and "No place is called 'jacks'" in err
    code, _, err = cli(capsys, "verify", folder, "--export", tmp_path)
    assert code == 2 and "it is no export to verify" in err


def test_a_process_that_ends_too_early_is_an_error_of_its_places(folder, monkeypatch):
    def observe(name, **options):
        return Place(name, "os:_exit", "tensorflow", **options)

    # `os._exit(case)` raises a TypeError; `options` cannot be passed to it either.
    places = [observe("fails"), observe("absent", requires=("no_such_module",))]
    failed, absent = driver.verify("m", folder, places, {}, 2).results
    assert failed.error is not None and "TypeError" in failed.error and not failed.passed
    assert absent.skipped == "no_such_module is not installed" and absent.passed
    monkeypatch.setattr(driver.sys, "executable", "/bin/false")
    (ended,) = driver.verify("m", folder, places[:1], {}, 2).results
    assert ended.sentences == ["fails: its process ended before it was done (no output)."]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_every_place_of_this_machine_runs_one_model(architecture, tmp_path):
    tokenizer = Tokenizer.train_bpe(["the cat sat on the mat; a dog ran to the cat"] * 40, 300)
    folder = write_tiny_model(tmp_path / "model", architecture, tokenizer, initializer_range=0.2)
    # How far int4 takes a model from its float weights is bounded for trained ones.
    places = [p for p in all_places(folder, has_gpu=False) if p.name != "numpy int4"]
    certificate = driver.verify("tiny", folder, places, {}, 8)
    sentences = [line for result in certificate.results for line in result.sentences]
    assert certificate.passed, sentences
    observed = {result.name for result in certificate.results if result.skipped is None}
    assert observed >= {"jax float32", "tensorflow int8", "torch adapter", "server", "savedmodel"}
