"""`kgpt replay`: the verdict, the exit code, and files that are no receipts."""

import contextlib
import json

import pytest

from kgpt.config import SamplingConfig
from kgpt.text.tokenizer import Tokenizer
from tests.cli.running import kgpt
from tests.tiny import tiny_config


@pytest.fixture
def receipts(tmp_path, monkeypatch):
    """Two receipts in a file of JSON lines; replaying them gives what `receipts.now` holds."""
    from kgpt.generation.completion import Completion
    from kgpt.generation.receipt import ReceiptWriter
    from kgpt.generation.sequence import Request
    from kgpt.protocol import Usage

    (tmp_path / "config.json").write_text("{}")
    writer = ReceiptWriter(tmp_path, Tokenizer.of_bytes(), tiny_config(), 32, "float32")

    class Receipts:
        def __init__(self):
            self.file, self.now = tmp_path / "receipts.jsonl", []

        def add(self, then, now):
            texts = []
            for text in (then, now):
                started = writer.start(Request([1], SamplingConfig(seed=1)), frozenset())
                started.add(text)
                texts.append(started.close("stop", 1))
            line = json.dumps({"text": then, "choices": [{"kgpt_receipt": texts[0]}]})
            before = self.file.read_text() if self.file.exists() else ""
            self.file.write_text(before + line + "\n")
            self.now = [*self.now, Completion(now, "stop", Usage(1, 1), receipt=texts[1])]

    made = Receipts()
    generator = "kgpt.generation.generator.TextGenerator"
    monkeypatch.setattr(generator, lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr("kgpt.generation.replay.replay", lambda *_: made.now)
    monkeypatch.setattr("kgpt.cli.replay.prepare_process", lambda _: None)
    monkeypatch.setattr("kgpt.cli.replay.silence_native_code", lambda: None)
    return made


def test_the_same_texts(receipts, capsys):
    receipts.add("a", "a")
    assert kgpt(capsys, "replay", receipts.file) == (0, "a\n", "kgpt: The text is the same.\n")
    receipts.add("b", "b")
    assert kgpt(capsys, "replay", receipts.file)[2] == "kgpt: All 2 texts are the same.\n"
    receipts.now[1].receipt["sha256"]["weights"] = "other"
    code, _, error = kgpt(capsys, "replay", receipts.file)
    assert code == 0 and error.endswith("All 2 texts are the same, although the weights differ.\n")


def test_a_text_that_differs(receipts, capsys):
    receipts.add("a", "a")
    receipts.add("b", "c")
    code, output, error = kgpt(capsys, "replay", receipts.file, "--json")
    assert code == 1 and "1 of 2 texts differ (number 2), but no other part" in error
    assert [json.loads(line)["same"] for line in output.splitlines()] == [True, False]
    receipts.now[1].receipt["sha256"]["tokenizer"] = "other"
    code, _, error = kgpt(capsys, "replay", receipts.file)
    assert code == 1 and error.endswith("differ (number 2), and so do: the tokenizer.\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"text": "a"}', "has no receipt"),
        ("a\nb", "neither JSON nor JSON lines"),
        ('{"kgpt_receipt": 1}', "does not name its model"),
        ('{"kgpt_receipt": 1, "model": "a"}\n{"kgpt_receipt": 1, "model": "b"}', "one model"),
    ],
)
def test_what_is_no_receipt_is_one_sentence(own_folder, tmp_path, capsys, text, problem):
    file = tmp_path / "receipts.jsonl"
    file.write_text(text)
    code, output, error = kgpt(capsys, "replay", file)
    assert code in (1, 2) and not output
    assert problem in error and error.count("\n") == 1


def test_a_receipt_of_another_version_is_refused(receipts, capsys):
    receipts.add("a", "a")
    receipts.file.write_text(
        receipts.file.read_text().replace('kgpt_receipt": 1', 'kgpt_receipt": 2')
    )
    code, _, error = kgpt(capsys, "replay", receipts.file)
    assert code == 2 and "receipt.kgpt_receipt" in error
