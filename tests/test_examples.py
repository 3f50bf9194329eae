"""The examples run, on tiny data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from kgpt.text.tokenizer import CHATML_TEMPLATE

EXAMPLES = Path(__file__).parent.parent / "examples"
TEXT = "Once upon a time it was Monday. Anna went to the park. The boat is red.\n\n" * 200


def run(folder: Path, name: str, *words: str, **environment: str) -> str:
    """What an example prints; it fails the test if it ends with an error."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *words],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "jax", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first example made a model."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "book.txt").write_text(TEXT)
    printed = run(folder, "train_script.py", "book.txt", "out", "--steps", "12")
    assert "val_loss" in printed and printed.rstrip().splitlines()[-1]
    assert (folder / "out" / "model" / "model.safetensors").is_file()
    return folder


def test_streaming_shows_text_and_probabilities(trained: Path) -> None:
    printed = run(trained, "stream.py", "out/model", "Once")
    assert printed.count("most likely:") == 10 and "%" in printed


@pytest.mark.parametrize("method", ["lora", "last-layers"])
def test_a_model_is_fine_tuned(trained: Path, method: str) -> None:
    """A LoRA adapter on int8 weights, which is saved alone; or the last block, with the model."""
    target = trained / "out" / method
    words = ["out/model", "out/data", str(target), "--steps", "2", "--method", method]
    printed = run(trained, "finetune.py", *words, *(["--int8"] if method == "lora" else []))
    assert "trained parameters; the model has" in printed
    if method == "last-layers":
        assert (target / "model.safetensors").is_file()
        return
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


def test_conversations_are_learned_in_packed_rows(trained: Path) -> None:
    rows = [{"prompt": "Where is it?", "completion": f"In park {i}."} for i in range(12)]
    (trained / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "out/model", "chats.jsonl", "out/chat", "--epochs", "1"
    printed = run(trained, "chat_dataset.py", *words)
    assert "11 conversations, 0 of them truncated" in printed and "val_loss" in printed
    assert (trained / "out" / "chat" / "model.safetensors").is_file()


def test_a_conversation_has_two_answers(trained: Path) -> None:
    shutil.copytree(trained / "out" / "model", trained / "chat")
    file = trained / "chat" / "tokenizer_config.json"  # as of a model trained on conversations
    config = json.loads(file.read_text()) | {"chat_template": CHATML_TEMPLATE}
    file.write_text(json.dumps(config))
    assert len(run(trained, "chat.py", "chat").splitlines()) >= 2


def test_the_openai_client_streams_an_answer() -> None:
    from tests.serving.harness import start

    running = start()
    try:
        assert run(Path.cwd(), "openai_client.py", running.url).strip()
    finally:
        running.stop()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    environment: Mapping[str, str] = {"KERAS_BACKEND": "jax", "STEPS": "4", "CONVERSATIONS": "300"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(EXAMPLES / "first_gpt.ipynb", as_version=4)
    client.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    assert (tmp_path / "first-gpt" / "model.safetensors").is_file()
    assert "val_loss" in str(notebook.cells)


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in EXAMPLES.iterdir():
        assert path.name == "README.md" or path.name.startswith(("_", ".")) or path.name in listed


def test_a_model_learns_from_rewards(trained: Path) -> None:
    printed = run(trained, "grpo.py", "out/model", "out/rewarded", "--steps", "2")
    assert "step 2: mean reward 0." in printed
    assert (trained / "out" / "rewarded" / "model.safetensors").is_file()
