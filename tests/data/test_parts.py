"""Parts and their merge: the bytes of one go, whatever the number of parts and interruptions."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.cli import main
from kgpt.data import source_batches
from kgpt.data.parts import parse_part, read_part
from kgpt.data.prepare import merge, prepare, prepare_part
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
STORIES = [{"text": f"Story {number}: the {'very ' * (number % 7)}end."} for number in range(40)]


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(source_batches, "BATCH_CHARACTERS", 100)


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def files_of(folder):
    """The bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_parts(folder, source, count, tokenizer=TOKENIZER):
    folders = [folder / f"part-{number}-of-{count}" for number in range(1, count + 1)]
    for number, out in enumerate(folders, 1):
        prepare_part(Corpus([source], skip_invalid=True), tokenizer, out, number, count)
    return folders


@given(
    st.lists(
        st.one_of(
            st.text(max_size=300).map(lambda text: {"text": text}), st.just({"messages": TALK[:1]})
        ),
        min_size=2,
        max_size=30,
    ),
    st.sampled_from([1, 3, 7]),
)
def test_parts_are_merged_to_the_same_bytes(tmp_path_factory, rows, count):
    folder = tmp_path_factory.mktemp("parts")
    rows = [{"text": "first"}, *rows, {"text": "last"}]
    source = jsonl(folder / "a.jsonl", rows)
    prepare(Corpus([source], skip_invalid=True), TOKENIZER, folder / "whole")
    folders = make_parts(folder, source, count)
    merge(folders[::-1], folder / "merged")
    assert files_of(folder / "merged") == files_of(folder / "whole")


@pytest.mark.parametrize("kind", ["text", "conversations"])
def test_texts_and_conversations_in_parts(tmp_path, monkeypatch, kind):
    """One long text is split by position; conversations have a loss mask and a chat template."""
    monkeypatch.setattr("kgpt.data.assembly.COUNTED_BYTES", 0)  # as a large corpus
    if kind == "text":
        (tmp_path / "a.txt").write_text("".join(row["text"] for row in STORIES) * 200)
        source = str(tmp_path / "a.txt")
    else:
        source = jsonl(tmp_path / "a.jsonl", [{"messages": TALK * (n % 3)} for n in range(1, 30)])
    prepare(Corpus([source], skip_invalid=True), TOKENIZER, tmp_path / "whole")
    merge(make_parts(tmp_path, source, 3), tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["killed", "torn", "empty"])
def test_an_interrupted_part_goes_on_where_it_was(tmp_path, monkeypatch, damage):
    source = jsonl(tmp_path / "a.jsonl", STORIES)
    whole = make_parts(tmp_path, source, 1)[0]
    part = tmp_path / "killed"
    from kgpt.data.parts import PartWriter

    add, count = PartWriter.add, itertools.count()

    def killed(self, batch):
        if next(count) == 4:
            raise KeyboardInterrupt
        add(self, batch)

    monkeypatch.setattr(PartWriter, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare_part(Corpus([source], skip_invalid=True), TOKENIZER, part, 1, 1)
    monkeypatch.setattr(PartWriter, "add", add)
    with pytest.raises(DataError, match=r"Part 1/1 in .*killed is not complete; run its command"):
        merge([part], tmp_path / "merged")
    kept = (part / "batches.bin").read_bytes()
    (part / "batches.bin").write_bytes({"killed": kept, "torn": kept[:-9], "empty": b""}[damage])
    encoded = []
    monkeypatch.setattr(PartWriter, "add", lambda s, batch: encoded.append(batch) or add(s, batch))
    done = prepare_part(Corpus([source], skip_invalid=True), TOKENIZER, part, 1, 1)
    assert len(encoded) == done.num_batches - {"killed": 4, "torn": 3, "empty": 0}[damage]
    names = ["batches.bin", "tokenizer.json"]
    assert [files_of(part)[name] for name in names] == [files_of(whole)[name] for name in names]


def test_sources_that_change_under_a_part_are_refused(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", STORIES)
    (part,) = make_parts(tmp_path, source, 1)
    jsonl(tmp_path / "a.jsonl", [*STORIES[1:], STORIES[0]])
    with pytest.raises(DataError, match="sources have changed since part 1/1 was begun; delete"):
        make_parts(tmp_path, source, 1)
    with pytest.raises(UsageError, match="has part 1/1 of other sources or options"):
        prepare_part(Corpus([source]), TOKENIZER, part, 1, 2)
    with pytest.raises(UsageError, match="exists and is no part"):
        prepare_part(Corpus([source]), TOKENIZER, tmp_path, 1, 2)


def test_what_are_not_the_parts_of_one_data_set_is_refused(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", STORIES)
    parts = make_parts(tmp_path, source, 2)
    other = tmp_path / "other"
    other.mkdir()
    changed = make_parts(other, jsonl(other / "a.jsonl", STORIES[::-1]), 2)
    bytes_only = tmp_path / "bytes"
    bytes_only.mkdir()
    tokenizer = make_parts(bytes_only, source, 2, Tokenizer.of_bytes(["<|endoftext|>"]))
    for folders, sentence in (
        (parts[:1], "The parts 2/2 are missing"),
        ([*parts, parts[0]], "There are 2 parts; name the folder of each once"),
        ([parts[0], changed[1]], "not parts of one data set: their sources differ"),
        ([parts[0], tokenizer[1]], "their tokenizers differ"),
    ):
        with pytest.raises(UsageError, match=sentence):
            merge(folders, tmp_path / "merged")
    with pytest.raises(DataError, match="There is no part in"):
        merge([tmp_path / "none"], tmp_path / "merged")
    data = (parts[1] / "batches.bin").read_bytes()
    (parts[1] / "batches.bin").write_bytes(data[:99] + b"\x00\x01" + data[101:])
    with pytest.raises(DataError, match=r"part-2-of-2 is damaged; delete it"):
        merge(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_part_is_named_by_its_number_and_that_of_all():
    assert parse_part("3/7") == (3, 7)
    for text in ("0/3", "4/3", "1", "a/b", "-1/3"):
        with pytest.raises(UsageError, match="as in 2/3"):
            parse_part(text)


def test_the_commands(tmp_path, monkeypatch, capsys):
    """Each part trains the same tokenizer."""
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", STORIES)

    def kgpt(*words):
        with pytest.raises(SystemExit) as ended:
            main(["data", *words])
        assert not ended.value.code, capsys.readouterr()

    options = ("a.jsonl", "--vocab-size", "300", "--quiet")
    kgpt("prepare", *options, "--out", "whole")
    for part in ("1", "2"):
        kgpt("prepare", *options, "--part", f"{part}/2", "--out", f"part-{part}")
    kgpt("merge", "part-1", "part-2", "--out", "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "whole")
    TokenDataset("merged").verify()
    assert read_part(tmp_path / "part-2").name == "2/2"
    assert "Story 0" in capsys.readouterr().out
