"""Conversations in every common form become the same messages."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.conversations import messages_of_row, parse_messages, text_of
from kgpt.data.sources import Corpus
from kgpt.errors import DataError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]
PARTS = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK},
        {"messages": [*TALK[:2], {"role": "assistant", "content": PARTS, "refusal": None}]},
        {"messages": [TALK[0] | {"role": "developer"}, *TALK[1:]], "id": 7},
        {"conversations": [{"from": "system", "value": "Be brief."},
                           {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]},
        {"system": "Be brief.", "instruction": "Hi", "input": "", "output": "Hello!"},
        {"system": "Be brief.", "prompt": "Hi", "completion": "Hello!"},
        {"prompt": TALK[:2], "completion": TALK[2:]},
        {"system": "Be brief.", "prompt": "Hi", "response": "Hello!"},
        {"system": "Be brief.", "question": "Hi", "answer": "Hello!"},
        {"system": "Be brief.", "instruction": "Hi", "context": "", "response": "Hello!"},
        {"prompt": TALK[:2], "completion": "Hello!"},
        {"system": "Be brief.", "prompt": "Hi", "completion": TALK[2:]},
        {"conversation": TALK},
        {"messages": json.dumps(TALK)},
        {"conversations": [{"from": None, "role": m["role"], "value": None, "content": m["content"]}
                           for m in TALK]},
    ],
)  # fmt: skip
def test_every_form_of_a_conversation_gives_its_messages(row):
    assert messages_of_row(row)[1] == TALK


def test_the_input_of_an_instruction_follows_it():
    row = {"instruction": "Translate.", "input": "Boot", "output": "boat"}
    assert messages_of_row(row)[1][0]["content"] == "Translate.\n\nBoot"


@pytest.mark.parametrize("row", [{"text": "x"}, {}, {"prompt": "x"}, {"instruction": "x"}])
def test_other_rows_are_no_conversations(row):
    assert messages_of_row(row) is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "must be a list"), ("hi", "must be a list"), ([3], "must be a list"),
        ([{"role": "user"}], "must be a list"), ([{"content": "x"}], "must be a list"),
        ([{"role": "narrator", "content": "x"}], "the role 'narrator' is unknown"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}], "has tool calls"),
        ([{"role": "user", "content": 3}], "is text, not int"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "type 'image_url'"),
        ([{"role": "assistant", "content": "x", "weight": 0.5}], "weight of a message is 0 or 1"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused_with_the_reason(tmp_path, messages, reason):
    with pytest.raises(ValueError, match=reason):
        parse_messages(messages)
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": messages}))
    with pytest.raises(DataError, match=f"a.jsonl, line 1: .*{reason}"):
        Corpus([str(tmp_path / "a.jsonl")])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "weight", "type", "text"]), inner
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_any_json_is_read_or_refused_with_a_reason(value):
    try:
        messages = parse_messages(value)
    except ValueError:
        return
    assert all(isinstance(message["content"], str) for message in messages)
    assert parse_messages(messages) == messages


def test_null_content_is_no_text():
    assert text_of(None) == ""


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_each_kind_of_file_can_contain_conversations(tmp_path, suffix):
    rows = [{"instruction": "Say hi", "output": f"hi {i}"} for i in range(3)]
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif suffix == "csv":
        path.write_text("instruction,output\n" + "".join(f"Say hi,hi {i}\n" for i in range(3)))
    elif suffix == "json":
        path.write_text(json.dumps({"data": rows}))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    corpus = Corpus([str(path)])
    assert corpus.notes == [f"{path}: 3 conversations (Alpaca)"]
    answers = [document.messages[-1]["content"] for document in corpus.documents()]
    assert answers == ["hi 0", "hi 1", "hi 2"]
    assert corpus.bytes_read == corpus.total_bytes


def test_a_cell_that_is_no_text_is_named(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist([{"text": 3}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 has int, not text, in the field 'text'"):
        list(Corpus([str(tmp_path / "a.parquet")]).documents())


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,b\nx\n", "line 2 has not as many cells"),
        ("a.csv", 'text\n"x', "line 2: unexpected end of data"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.json", "3", "contains no list of rows"),
        ("a.json", "[3]", "row 1 is no JSON object"),
        ("a.jsonl", "[]\n", "line 1 is no JSON object"),
    ],
)
def test_damaged_rows_are_refused_with_their_place(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        list(Corpus([str(tmp_path / name)]).documents())
