"""Documents from every kind of file, whatever its packing, in a fixed order."""

import gzip
import io
import json

import pytest

from kgpt.data import sources
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError


def texts(*names, **options):
    """Each document's whole text."""
    corpus = Corpus([str(name) for name in names], **options)
    return ["".join(document.parts) for document in corpus.documents()]


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_each_kind_of_file_gives_its_documents(tmp_path):
    (tmp_path / "a.txt").write_text("plain ü", encoding="utf-8")
    (tmp_path / "b.md").write_text("# marked", encoding="utf-8")
    write_rows(tmp_path / "c.jsonl", {"text": "row 1"}, {"text": "row 2"})
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["cell 1", None, "cell 2"]}), tmp_path / "d.parquet")
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"packed"))
    (tmp_path / "ignored.png").write_bytes(b"\x89PNG")
    found = texts(tmp_path)
    assert found == ["plain ü", "# marked", "row 1", "row 2", "cell 1", "cell 2", "packed"]


def test_a_packed_file_is_read_as_what_is_in_it(tmp_path):
    plain = write_rows(tmp_path / "a.jsonl", {"text": "x"}, {"text": "y"})
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert texts(packed) == texts(plain) == ["x", "y"]


def test_folders_are_searched_deeply_and_globs_sorted(tmp_path):
    for name in ("2.txt", "1.txt", "deep/er/3.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path, val_fraction=0) == ["1.txt", "2.txt", "deep/er/3.txt"]
    assert texts(tmp_path / "*.txt", val_fraction=0) == ["1.txt", "2.txt"]
    assert texts(tmp_path / "2.txt", tmp_path / "1.txt", val_fraction=0) == ["2.txt", "1.txt"]


def test_standard_input_is_one_text(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("aé".encode() * 50)))
    corpus = Corpus(["-"])
    assert corpus.is_one_text
    assert "".join(corpus.texts()) == ("aé" * 50)[:90]  # the last tenth is for validation


def test_one_text_is_cut_by_position_between_characters(tmp_path):
    text = "abcdéfg🦊hij" * 30
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    for fraction in (0.0, 0.1, 0.123, 0.5, 0.9):
        corpus = Corpus([str(tmp_path / "a.txt")], val_fraction=fraction)
        halves = {d.split: "".join(d.parts) for d in corpus.documents()}
        assert "".join(halves.values()) == text
        val = len(halves.get("val", "").encode())
        assert abs(val - fraction * len(text.encode())) <= 4


def test_a_separator_cuts_a_text_into_documents(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one<|>two<|><|> <|>three")
    for part in (1, 2, 3, 1 << 20):  # however the separator falls across the parts read
        monkeypatch.setattr(sources, "PART_BYTES", part)
        assert texts(tmp_path / "a.txt", separator="<|>") == ["one", "two", "three"]


def test_a_character_across_two_parts_is_one_character(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("🦊é" * 9, encoding="utf-8")
    monkeypatch.setattr(sources, "PART_BYTES", 3)
    assert "".join(texts(tmp_path / "a.txt")) == "🦊é" * 9


def test_another_field_may_hold_the_text(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", {"body": "x", "id": 1})
    assert texts(file, text_field="body") == ["x"]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1 .*'text'.*--field .*: body, id"):
        texts(file)


def test_conversations_are_rows_with_messages(tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    corpus = Corpus([str(write_rows(tmp_path / "a.jsonl", {"messages": messages}))])
    assert corpus.has_conversations
    assert [d.messages for d in corpus.documents()] == [messages]
    assert list(corpus.texts()) == ["hi", "hello"]


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "user"}], [{"content": "x"}], [3]])
def test_misshapen_conversations_are_refused(tmp_path, messages):
    file = write_rows(tmp_path / "a.jsonl", {"messages": messages})
    with pytest.raises(DataError, match="line 1: messages must be a list of"):
        list(Corpus([str(file)]).documents())


def test_the_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text"\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 3 is not JSON"):
        texts(tmp_path / "a.jsonl")


def test_all_that_is_read_is_counted(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 1000)
    write_rows(tmp_path / "b.jsonl", *({"text": "y"} for _ in range(50)))
    corpus = Corpus([str(tmp_path)])
    for document in corpus.documents():
        assert corpus.bytes_read <= corpus.total_bytes
        list(document.parts)
    assert corpus.bytes_read == corpus.total_bytes


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda f: f / "nothing.txt", UsageError, "does not exist; name a file"),
        (lambda f: f, UsageError, "No .txt, .md, .jsonl, .json, .csv, .parquet files were found"),
        (lambda f: _written(f / "a.doc", b"x"), UsageError, "cannot read .*a.doc"),
        (lambda f: _written(f / "a.txt.gz", b"not packed"), DataError, "damaged"),
        (lambda f: _written(f / "a.txt.gz", gzip.compress(b"x" * 99)[:-9]), DataError, "damaged"),
        (lambda f: _written(f / "a.parquet", b"x"), DataError, "a.parquet is damaged"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, make, error, sentence):
    with pytest.raises(error, match=sentence):
        texts(make(tmp_path))


def test_a_column_that_is_not_there_is_named(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1 has no text in the field 'text'.*: body"):
        texts(tmp_path / "a.parquet")


def _written(path, data):
    path.write_bytes(data)
    return path
