"""Filters and deduplication: what they leave out, counted, whoever encodes the documents."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.cli import main
from kgpt.config import DocumentSelectionConfig
from kgpt.data import source_batches
from kgpt.data.document_filters import DocumentFilters
from kgpt.data.prepare import merge, prepare, prepare_part, train_tokenizer
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.of_bytes()
ENGLISH = "The weather was fine, and all the children of the village went to the river."
GERMAN = "Das Wetter war schön, und alle Kinder des Dorfes gingen zusammen an den Fluss."


def jsonl(path, texts):
    rows = [text if isinstance(text, dict) else {"text": text} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def kept(folder, texts, **options):
    """The documents that are left of `texts`, and how many each rule left out."""
    selection = DocumentSelectionConfig(**options)
    corpus = Corpus([jsonl(folder / "a.jsonl", texts)])
    manifest = prepare(corpus, TOKENIZER, folder / "out", 0, selection=selection)
    data = TokenDataset(folder / "out")
    ids = data.tokens("train").arrays[0].tolist()
    text = data.tokenizer.decode(ids)
    return text.split("<|endoftext|>")[:-1], manifest.left_out


def test_each_rule_counts_what_it_leaves_out_first(tmp_path):
    texts = [
        "short",
        "x" * 200,
        ENGLISH,
        "call 555-1234 for the weather",
        "no such word in it here",
    ]
    options = {"min_chars": 6, "max_chars": 100, "keep_regex": "weather", "drop_regex": r"\d{4}"}
    left, counts = kept(tmp_path, texts, **options)
    assert left == [ENGLISH]
    assert counts == {
        "--min-chars 6": 1,
        "--max-chars 100": 1,
        "--keep-regex weather": 1,
        r"--drop-regex \d{4}": 1,
    }


def test_only_documents_in_the_languages_stay(tmp_path):
    pytest.importorskip("py3langid")
    left, counts = kept(tmp_path, [ENGLISH, GERMAN, ENGLISH + "!"], language=["en"])
    assert left == [ENGLISH, ENGLISH + "!"]
    assert counts == {"--language en": 1}
    with pytest.raises(UsageError, match="--language klingon is not known; the languages are"):
        kept(tmp_path, [ENGLISH], language="klingon")


def test_a_duplicate_is_left_out_and_the_first_stays(tmp_path):
    left, counts = kept(tmp_path, ["a", "b", "a", "a ", "b"], dedup="exact")
    assert left == ["a", "b", "a "]
    assert counts == {"--dedup exact": 2}


def test_a_near_duplicate_is_left_out(tmp_path):
    pytest.importorskip("datasketch")
    words = [f"word{number}" for number in range(300)]
    random.Random(0).shuffle(words)
    other, changed = words[::-1], [*words]
    changed[150] = "another"
    chinese = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望明月低头思故乡" * 2
    texts = [" ".join(words), " ".join(other), " ".join(changed).upper(), chinese, chinese[:-1]]
    left, counts = kept(tmp_path, texts, dedup="minhash")
    assert left == [texts[0], texts[1], texts[3]]
    assert counts == {"--dedup minhash --dedup-threshold 0.8": 2}
    left, counts = kept(tmp_path, texts, dedup="minhash", dedup_threshold=0.99)
    assert left[:3] == texts[:3]


def test_conversations_are_chosen_by_their_messages(tmp_path):
    talks = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in (("Hi", "Hello"), ("Hi", "Hello"), ("Bye", "So long"), ("Hi", "So"))
    ]
    corpus = Corpus([jsonl(tmp_path / "a.jsonl", talks)])
    selection = DocumentSelectionConfig(drop_regex="long", dedup="exact")
    manifest = prepare(corpus, TOKENIZER, tmp_path / "out", 0, selection=selection)
    assert manifest.left_out == {"--drop-regex long": 1, "--dedup exact": 1}
    assert manifest.splits["train"].documents == 2


@given(
    st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "eeeee"]), min_size=3, max_size=25),
    st.sampled_from([2, 3]),
)
def test_over_parts_the_same_documents_stay(tmp_path_factory, texts, count):
    folder = tmp_path_factory.mktemp("parts")
    source = jsonl(folder / "a.jsonl", [*texts, "x" * 60])
    selection = DocumentSelectionConfig(min_chars=2, dedup="exact")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_batches, "BATCH_CHARACTERS", 9)
        prepare(Corpus([source]), TOKENIZER, folder / "whole", selection=selection)
        parts = [folder / str(number) for number in range(1, count + 1)]
        for number, out in enumerate(parts, 1):
            prepare_part(Corpus([source]), TOKENIZER, out, number, count, selection=selection)
    merge(parts, folder / "merged")
    for file in (folder / "whole").iterdir():
        assert (folder / "merged" / file.name).read_bytes() == file.read_bytes()


def test_a_tokenizer_is_trained_on_what_the_filters_keep(tmp_path):
    corpus = Corpus([jsonl(tmp_path / "a.jsonl", ["abc", "xyz!"])])
    selection = DocumentSelectionConfig(drop_regex="!")
    made = train_tokenizer(corpus, "char", 0, 0, lambda read: None, selection)
    assert made.token_to_id("a") is not None and made.token_to_id("x") is None


def test_what_cannot_be_chosen_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("One.\n\nTwo.")
    selection = DocumentSelectionConfig(min_chars=5)
    with pytest.raises(UsageError, match="--min-chars chooses among documents; tell with --sepa"):
        prepare(Corpus([str(tmp_path / "a.txt")]), TOKENIZER, tmp_path / "out", selection=selection)
    with pytest.raises(DataError, match="hold no text to train on; the filters left nothing"):
        kept(tmp_path, ["a"], min_chars=2)
    with pytest.raises(UsageError, match=r"keep_regex: '\(' is no regular expression"):
        DocumentSelectionConfig.parse({"keep_regex": "("})
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(UsageError, match=r'pip install "kgpt\[language\]"'):
        DocumentFilters(DocumentSelectionConfig(language="en"))
    with pytest.raises(UsageError, match=r'pip install "kgpt\[dedup\]"'):
        kept(tmp_path, ["a"], dedup="minhash")


def test_the_command_tells_the_counts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "a.jsonl", [ENGLISH, ENGLISH, GERMAN, "x"])
    flags = ["--min-chars", "2", "--drop-regex", "Fluss", "--dedup", "exact"]
    with pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "a.jsonl", "--out", "set", "--tokenizer", "byte", *flags])
    assert not ended.value.code
    shown = capsys.readouterr().out
    for count in ("by --min-chars 2", "by --drop-regex Fluss", "by --dedup exact"):
        assert f"1 document left out {count}" in shown
