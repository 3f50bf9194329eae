"""What is recognized in files is what is read, and is told before that."""

import json

import pytest

from kgpt.cli.data import prepare
from kgpt.data.recognition import SAMPLE_ROWS, recognize_rows
from kgpt.data.sources import Corpus

QUESTION = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def recognized(folder, *rows, **options):
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recognize_rows(path, "jsonl", "a.jsonl", **options)


@pytest.mark.parametrize(
    ("row", "summary"),
    [
        ({"text": "x", "id": 1}, "2 texts (field 'text'; not used: id)"),
        ({"content": "x", "path": "a.py"}, "2 texts (field 'content'; not used: path)"),
        ({"messages": MESSAGES}, "2 conversations (messages)"),
        (
            {"conversations": QUESTION, "source": "x"},
            "2 conversations (ShareGPT, human → user, gpt → assistant; not used: source)",
        ),
        (
            {"instruction": "a", "output": "b", "category": "c"},
            "2 conversations (Alpaca; not used: category)",
        ),
        ({"prompt": "a", "completion": "b"}, "2 conversations (prompt and completion)"),
    ],
)
def test_formats_fields_and_roles_are_told(tmp_path, row, summary):
    found = recognized(tmp_path, row, row)
    assert found.summary == summary
    documents = list(Corpus([str(tmp_path / "a.jsonl")]).documents())
    assert len(documents) == 2
    assert all(bool(found.conversations) == (d.messages is not None) for d in documents)


def test_rows_beyond_the_first_are_estimated(tmp_path):
    rows = [{"text": "x" * 20}] * (SAMPLE_ROWS * 3)
    assert recognized(tmp_path, *rows).summary == "about 3,000 texts (field 'text')"
    assert recognized(tmp_path, *rows[:SAMPLE_ROWS]).summary == "1,000 texts (field 'text')"


def test_a_field_that_was_named_is_not_replaced(tmp_path):
    assert recognized(tmp_path, {"content": "x"}, text_field="body").text_field == "body"
    assert recognized(tmp_path, {"content": "x", "messages": MESSAGES}).conversations == "messages"


@pytest.mark.parametrize("value", [3, "x", [3], [{"role": ["user"], "content": "x"}], [{}]])
def test_later_rows_that_are_no_conversation_are_not_judged_here(tmp_path, value):
    assert recognized(tmp_path, {"messages": MESSAGES}, {"messages": value}).conversations


def test_texts_are_told_with_their_size_and_many_in_one_line(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("x" * 1000)
    assert Corpus([str(tmp_path)]).notes == ["3 text files, 3.0 kB"]
    one = str(tmp_path / "1.txt")
    assert Corpus([one], separator="---").notes == [
        f"{one}: text, 1.0 kB, documents separated by '---'"
    ]


def test_it_is_told_before_anything_is_written(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"conversations": QUESTION}))
    monkeypatch.setattr("kgpt.data.prepare.prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(str(path), out=str(tmp_path / "out"), tokenizer="byte")
    assert "1 conversations (ShareGPT" in capsys.readouterr().err.replace("\n", "")
