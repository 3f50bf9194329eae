"""From text to a data set: exact, the same whatever the parallelism, and whole or not there."""

import json
import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.prepare import prepare, train_tokenizer
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.data.split_assembly import validation_documents
from kgpt.errors import DataError, KgptError, UsageError
from kgpt.text.tokenizer import Tokenizer

STORIES = [f"Story {i}: the {'very ' * (i % 7)}old café 🦊\n\nended.\n" for i in range(200)]
TALK = [{"role": "user", "content": "Hi <|im_end|>"}, {"role": "assistant", "content": "Hello!"}]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def prepared(tmp_path, source, tokenizer=None, val_fraction=0.1, name="out"):
    corpus = Corpus([source], val_fraction=val_fraction)
    tokenizer = tokenizer or train_tokenizer(corpus, "bpe", 400, 2, lambda read: None)
    prepare(corpus, tokenizer, tmp_path / name, val_fraction)
    return TokenDataset(tmp_path / name)


def files_of(folder):
    """The bytes of every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def documents(data, split):
    """The text of each document of a split, end-of-text removed."""
    stream = data.tokens(split)
    starts = data.document_offsets(split).astype(int).tolist()
    ids = stream.windows(np.array([0]), len(stream))[0].tolist() if len(stream) else []
    cuts = zip(starts, [*starts[1:], len(ids)], strict=True)
    return [data.tokenizer.decode(ids[a:b]).removesuffix("<|endoftext|>") for a, b in cuts]


@pytest.mark.parametrize("batch_characters", [1, 100, 1 << 20])
def test_every_document_is_in_one_split_word_for_word(tmp_path, monkeypatch, batch_characters):
    monkeypatch.setattr("kgpt.data.source_batches.BATCH_CHARACTERS", batch_characters)
    data = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"text": t} for t in STORIES]))
    data.verify()
    train, val = documents(data, "train"), documents(data, "val")
    assert sorted(train + val) == sorted(STORIES)
    assert len(val) == 20
    sizes = [data.manifest.splits[split].text_bytes for split in ("train", "val")]
    assert sizes == [sum(len(t.encode()) for t in texts) for texts in (train, val)]


def test_adding_documents_moves_none_between_splits(tmp_path):
    tokenizer = Tokenizer.of_bytes()
    few = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"text": t} for t in STORIES[:99]]),
                   tokenizer, name="few")  # fmt: skip
    all_ = prepared(tmp_path, jsonl(tmp_path / "b.jsonl", [{"text": t} for t in STORIES]),
                    tokenizer, name="all")  # fmt: skip
    for split in ("train", "val"):
        assert documents(all_, split)[: len(documents(few, split))] == documents(few, split)


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.booleans())
def test_the_validation_share_is_exact_to_one_document(count, fraction, is_counted):
    validates = list(islice(validation_documents(fraction, count if is_counted else None), count))
    assert abs(sum(validates) - fraction * count) <= 1
    if is_counted:
        assert 1 <= sum(validates) < count


@pytest.mark.parametrize("files", [1, 2, 3, 5])
def test_a_few_texts_are_each_split_by_position(tmp_path, files):
    (tmp_path / "texts").mkdir()
    for number in range(files):
        text = "".join(STORIES[number::files])
        (tmp_path / "texts" / f"{number}.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path, str(tmp_path / "texts"), Tokenizer.of_bytes())
    sizes = {split: info.text_bytes for split, info in data.manifest.splits.items()}
    assert sizes["val"] == pytest.approx(sum(sizes.values()) / 10, abs=4 * files)
    assert len(documents(data, "val")) == files


@pytest.mark.parametrize("rows", [2, 3, 5, 9])
def test_of_a_few_rows_one_validates(tmp_path, rows):
    source = jsonl(tmp_path / "a.jsonl", [{"text": t} for t in STORIES[:rows]])
    data = prepared(tmp_path, source, Tokenizer.of_bytes())
    assert [len(documents(data, split)) for split in ("train", "val")] == [rows - 1, 1]


def test_one_text_is_split_by_position(tmp_path):
    text = "".join(STORIES)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path, str(tmp_path / "a.txt"), Tokenizer.of_bytes())
    (train,), (val,) = documents(data, "train"), documents(data, "val")
    assert train + val == text
    assert len(val.encode()) == pytest.approx(len(text.encode()) / 10, abs=4)


def test_a_text_in_many_pieces_encodes_as_the_whole(tmp_path):
    text = "".join(STORIES) * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = prepared(tmp_path, str(tmp_path / "a.txt"), val_fraction=0)
    stream = data.tokens("train")
    ids = stream.windows(np.array([0]), len(stream))[0].tolist()
    assert ids == data.tokenizer.encode(text)


def test_of_conversations_the_replies_are_learned(tmp_path):
    data = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"messages": TALK}] * 9), val_fraction=0)
    stream, learn = data.tokens("train"), data.loss_mask("train")
    ids = stream.windows(np.array([0]), len(stream))[0]
    mask = learn.windows(np.array([0]), len(stream))[0].astype(bool)
    expected = (
        "<|im_start|>user\nHi <|im_end|><|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    )
    assert documents(data, "train") == [expected] * 9
    assert data.tokenizer.decode(ids[mask]) == "Hello!<|im_end|>" * 9


TURN = "[{{ m.role }}] {{ m.content }}{{ eos_token }}"
JINJA = "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}"


def test_a_model_with_a_template_of_its_own_learns_in_that_template(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    Tokenizer.of_bytes(["<s>", "</s>"]).save(folder)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": JINJA}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    source = jsonl(tmp_path / "a.jsonl", [{"messages": TALK}])
    data = prepared(tmp_path, source, Tokenizer.load(folder), val_fraction=0)
    stream, mask = data.tokens("train"), data.loss_mask("train")
    ids = stream.windows(np.array([0]), len(stream))[0]
    learned = mask.windows(np.array([0]), len(stream))[0].astype(bool)
    text = data.tokenizer.decode(ids)
    assert text == "<s>[user] Hi <|im_end|></s>[assistant] Hello!</s>"
    # The template opens no turn for the assistant, so the model generates its header, too.
    assert data.tokenizer.decode(ids[learned]) == "[assistant] Hello!</s>"
    assert data.manifest.splits["train"].text_bytes == len("Hi <|im_end|>Hello!")


def test_a_message_of_weight_zero_is_not_learned(tmp_path):
    talk = [*TALK, {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    talk[1] = talk[1] | {"weight": 0}
    source = jsonl(tmp_path / "a.jsonl", [{"messages": talk}])
    data = prepared(tmp_path, source, Tokenizer.of_bytes(), val_fraction=0)
    stream, mask = data.tokens("train"), data.loss_mask("train")
    ids = stream.windows(np.array([0]), len(stream))[0]
    learned = mask.windows(np.array([0]), len(stream))[0].astype(bool)
    assert data.tokenizer.decode(ids[learned]) == "I.<|im_end|>"


def test_only_data_of_conversations_has_a_chat_template(tmp_path):
    tokenizer = Tokenizer.of_bytes()
    chats = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"messages": TALK}] * 2), tokenizer)
    assert chats.tokenizer.special_tokens.chat_template is not None
    texts = prepared(tmp_path, jsonl(tmp_path / "b.jsonl", [{"text": "x"}] * 2), tokenizer)
    assert texts.tokenizer.special_tokens.chat_template is None


def test_a_conversation_among_texts_is_not_learned_whole_by_mistake(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"messages": TALK}])
    with pytest.raises(DataError, match="conversations a file of their own"):
        prepared(tmp_path, source, Tokenizer.of_bytes())


def test_many_ids_need_wider_integers(tmp_path):
    class Wide(Tokenizer):
        vocab_size = 1 << 17

    tokenizer = Wide(Tokenizer.of_bytes().backend_tokenizer)
    data = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"text": "x"}] * 20), tokenizer)
    assert data.manifest.dtype == "uint32"
    assert set(documents(data, "train")) == {"x"}


CHILD = """
import sys
from pathlib import Path
from kgpt.data.prepare import prepare, train_tokenizer
from kgpt.data.sources import Corpus
source, out = sys.argv[1:]
corpus = Corpus([source])
tokenizer = train_tokenizer(corpus, "bpe", 400, 2, lambda read: None)
def told(read):
    print(read, flush=True)
print("begun", flush=True)
prepare(corpus, tokenizer, Path(out), 0.1, told)
"""


def child(source, out, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, source, str(out)],
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )


def test_in_parallel_and_alone_the_same_bytes(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"text": t * 9} for t in STORIES])
    for name, parallel in (("many", "true"), ("one", "false")):
        process = child(source, tmp_path / name, TOKENIZERS_PARALLELISM=parallel)
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert len(files_of(tmp_path / "many")) >= 6
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")


@pytest.mark.parametrize("conversations", [False, True])
def test_with_workers_and_without_the_same_bytes(tmp_path, monkeypatch, conversations):
    monkeypatch.setattr("kgpt.data.source_batches.BATCH_CHARACTERS", 1000)
    rows = [{"messages": TALK}, {"messages": TALK[:1]}] if conversations else []
    source = jsonl(tmp_path / "a.jsonl", rows * 50 or [{"text": text} for text in STORIES])
    for name, workers in (("none", None), ("two", 2)):
        corpus = Corpus([source], skip_invalid=True)
        prepare(corpus, Tokenizer.of_bytes(), tmp_path / name, workers=workers)
        assert corpus.invalid.count == (50 if conversations else 0)
    assert files_of(tmp_path / "none") == files_of(tmp_path / "two")


def test_a_worker_that_is_killed_is_one_sentence(tmp_path, monkeypatch):
    dies = [sys.executable, "-c", "import os; os.read(0, 1)"]
    monkeypatch.setattr("kgpt.data.encoding_worker.COMMAND", dies)
    source = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in STORIES])
    with pytest.raises(KgptError, match=r"A worker was killed.* fewer with --workers"):
        prepare(Corpus([source]), Tokenizer.of_bytes(), tmp_path / "out", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_of_several_faults_the_first_is_told(tmp_path, monkeypatch):
    """What a template rejects, before a line that is not JSON, whoever is quicker."""
    monkeypatch.setattr("kgpt.data.source_batches.BATCH_CHARACTERS", 1)
    monkeypatch.setattr("kgpt.data.recognition.SAMPLE_ROWS", 1)
    source = tmp_path / "a.jsonl"
    system = [{"role": "system", "content": "Be brief."}, *TALK]
    folder = tmp_path / "model"
    folder.mkdir()
    Tokenizer.of_bytes(["<s>", "</s>"]).save(folder)
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + JINJA
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    jsonl(source, [{"messages": TALK}, {"messages": system}])
    with source.open("a") as file:
        file.write("{")
    with pytest.raises(DataError, match="a.jsonl, line 2"):
        prepare(Corpus([str(source)]), Tokenizer.load(folder), tmp_path / "out")


@pytest.mark.parametrize("after", [0, 3, 9])
def test_killed_halfway_it_leaves_nothing_that_looks_whole(tmp_path, after):
    """`after` is how much progress is waited for before the kill."""
    source = jsonl(tmp_path / "a.jsonl", [{"text": t * 99} for t in STORIES * 4])
    out = tmp_path / "sets" / "out"
    process = child(source, out)
    for _ in range(after + 1):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(DataError, match="There is no data set"):
        TokenDataset(out)
    data = prepared(tmp_path / "sets", source, Tokenizer.of_bytes())
    data.verify()
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["out"]


def test_a_failure_leaves_the_data_set_that_was_there(tmp_path):
    before = prepared(tmp_path, jsonl(tmp_path / "a.jsonl", [{"text": "good"}] * 30))
    bad = tmp_path / "b.jsonl"
    bad.write_text('{"text": "fine"}\n{"text"\n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        prepared(tmp_path, str(bad), before.tokenizer)
    after = TokenDataset(tmp_path / "out")
    after.verify()
    assert after.manifest == before.manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl", "out"]


def test_what_is_no_data_set_is_never_replaced(tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("It was Monday.")
    source = jsonl(tmp_path / "a.jsonl", [{"text": "x"}] * 30)
    for out in (precious, precious / "chapter1.txt", tmp_path):
        with pytest.raises(UsageError, match="is no data set; choose another name"):
            prepare(Corpus([source]), Tokenizer.of_bytes(), out)
    assert (precious / "chapter1.txt").read_text() == "It was Monday."


def test_no_text_is_no_data_set(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(DataError, match="hold no text to train on"):
        prepared(tmp_path, str(tmp_path / "a.txt"), Tokenizer.of_bytes())
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_said_so(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"text": "x"}] * 30)
    with pytest.raises(KgptError, match=r"Could not write the data set /proc/nothing"):
        prepare(Corpus([source]), Tokenizer.of_bytes(), Path("/proc/nothing"))


def test_progress_counts_bytes_up_to_the_end(tmp_path):
    source = jsonl(tmp_path / "a.jsonl", [{"text": t * 99} for t in STORIES * 4])
    corpus, told = Corpus([source]), []
    prepare(corpus, Tokenizer.of_bytes(), tmp_path / "out", progress=told.append)
    assert told == sorted(told) and len(told) > 3
    assert told[-1] == corpus.total_bytes


def test_training_sees_no_validation_text(tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 450 + "cd" * 50)
    corpus = Corpus([str(tmp_path / "a.txt")], val_fraction=0.1)
    tokenizer = train_tokenizer(corpus, "char", 0, 0, lambda read: None)
    assert tokenizer.token_to_id("a") is not None
    assert tokenizer.token_to_id("c") is None
