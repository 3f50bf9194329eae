"""`kgpt push` against a hub of the test's own."""

import hashlib
import json

import huggingface_hub
import pytest

from kgpt.checkpoints.model_card import CARD
from tests.cli.fake_hub import FakeHub
from tests.cli.running import kgpt
from tests.tiny import write_tiny_model


@pytest.fixture
def hub(monkeypatch):
    """A hub that accepts everything, and the token for it."""
    server = FakeHub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_token")
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    yield server
    server.close()


@pytest.fixture
def model(tmp_path):
    """A checkpoint's files: a model, the state of its training, and others that are neither."""
    folder = write_tiny_model(tmp_path / "model", "gpt2")
    (folder / "optimizer.safetensors").write_bytes(b"moments")
    for name in ("trainer_state.json", "checksums.json", "notes.py"):
        (folder / name).write_text("{}")
    return folder


def is_private(hub):
    """As newer and older versions of huggingface_hub ask for it."""
    asked = hub.repositories[0]
    return asked.get("visibility") == "private" or asked.get("private") is True


def test_the_model_and_its_card_are_committed(hub, model, capsys):
    code, out, _ = kgpt(capsys, "push", model, "owner/name", "--yes", "--license", "mit")
    assert code == 0, out
    ((branch, files),) = hub.commits
    assert branch == "main" and f"Uploaded: {hub.url}/owner/name" in out
    assert set(files) == {
        CARD, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    weights = (model / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == hashlib.sha256(weights).hexdigest()
    assert hub.objects == {files["model.safetensors"]: weights}
    card = huggingface_hub.ModelCard(files[CARD])
    assert card.data.license == "mit" and "kgpt generate --model owner/name" in card.text
    assert not is_private(hub)


def test_options_are_passed_on(hub, model, capsys):
    (model / CARD).write_text("mine")
    options = ("--yes", "--private", "--revision", "next", "--optimizer-state")
    assert kgpt(capsys, "push", model, "owner/name", *options)[0] == 0
    ((branch, files),) = hub.commits
    assert branch == "next" == hub.branches[0] and files[CARD] == "mine"
    assert {"optimizer.safetensors", "trainer_state.json", "checksums.json"} <= set(files)
    assert "notes.py" not in files and is_private(hub)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [(401, "does not accept the token"), (403, "may not write there"), (500, "Could not upload")],
)
def test_what_the_hub_refuses_is_a_sentence(status, sentence, hub, model, capsys):
    hub.status = status
    code, _, err = kgpt(capsys, "push", model, "owner/name", "--yes")
    assert code == 1 and sentence in err and err.count("\n") == 1
    assert not hub.commits


def test_without_a_network_or_a_token(hub, model, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, _, err = kgpt(capsys, "push", model, "owner/name", "--yes")
    assert code == 1 and "cannot be reached" in err and err.count("\n") == 1
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = kgpt(capsys, "push", model, "owner/name", "--yes")
    assert code == 1 and "HF_HUB_OFFLINE" in err
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    code, _, err = kgpt(capsys, "push", model, "owner/name", "--yes")
    assert code == 1 and "hf auth login" in err


@pytest.mark.parametrize(("answer", "uploaded"), [("y", 1), ("", 0), ("no", 0)])
def test_in_a_terminal_one_is_asked(answer, uploaded, hub, model, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    code, _, _ = kgpt(capsys, "push", model, "owner/name")
    assert (code, len(hub.commits)) == (1 - uploaded, uploaded)


def test_the_local_base_of_an_adapter_is_named(hub, model, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(model)})
    )
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    code, out, _ = kgpt(capsys, "push", adapter, "owner/name", "--yes")
    assert code == 0 and f"Its base model is the local folder {model}" in out
    assert "kgpt merge" in out


def test_what_cannot_be_pushed(model, capsys, tmp_path):
    assert "OWNER/NAME" in kgpt(capsys, "push", model, "name", "--yes")[2]
    code, _, err = kgpt(capsys, "push", model, "owner/name")
    assert code == 2 and "--yes" in err
    (model / "model.safetensors").unlink()
    (model / "optimizer.safetensors").unlink()
    assert "no safetensors weights" in kgpt(capsys, "push", model, "owner/name", "--yes")[2]
