"""Texts are found where they stand in a data set, and at the steps whose batches have them."""

import dataclasses
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from kgpt.cli import main
from kgpt.config import Config, SkippedSteps
from kgpt.data import suffix_array
from kgpt.data.prepare import prepare
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.lab.lineage import Lineage
from kgpt.lab.passages import TextSearch
from kgpt.lab.trace import Tracer
from kgpt.lab.windows import Windows
from kgpt.runs import Run, RunData
from kgpt.text.tokenizer import Tokenizer

TEXT = "the old wizard's cat ran 1234 miles, over hills; Zoë said (twice): naïve 日本語!"
WORDS = TEXT.split()


def documents(count):
    draw = random.Random(5)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 40))) for _ in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Documents in a data set of BPE tokens, sorted in several blocks."""
    folder = tmp_path_factory.mktemp("trace")
    file = folder / "texts.txt"
    file.write_text("\n\n\n".join(documents(150)), encoding="utf-8")
    corpus = Corpus([str(file)], separator="\n\n\n")
    tokenizer = Tokenizer.train_bpe(documents(150), 300)
    prepare(corpus, tokenizer, folder / "data", val_fraction=0.2)
    return TokenDataset(folder / "data")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", 1000)
    monkeypatch.setattr(suffix_array, "DEPTH", 8)


def make_run(folder, data, **train):
    options = {"batch_size": 3, "sequence_length": 24, "max_steps": 40, **train}
    packing = options.pop("packing", "stream")
    changes = {f"train.{key}": value for key, value in options.items()}
    config = Config.load("shakespeare-cpu", changes | {"data.packing": packing})
    run = Run(folder / "run")
    run.write_config(config.to_yaml())
    manifest = data.manifest
    run.write_data(
        RunData(
            path=str(data.folder),
            sha256=manifest.content_sha256,
            vocab_size=manifest.vocab_size,
            tokenizer_sha256=manifest.tokenizer_sha256,
            train_tokens=1,
            val_tokens=1,
        )
    )
    return run


def rows(windows):
    """Every row of the run: step, batch, row, and the offsets of its tokens in the split.

    The stream that the sampler reads is replaced by the offsets themselves.
    """
    sampler = windows.sampler
    sampler.stream.arrays = [np.arange(len(sampler.stream), dtype=np.int64)]
    sampler.stream.ends, sampler.stream.vocab_size = np.array([len(sampler.stream)]), None
    for batch in range(windows.num_batches):
        inputs, targets, *rest = sampler.batch(batch)
        packed = isinstance(inputs, dict)
        ids = inputs["token_ids"] if packed else inputs
        segments = inputs["segment_ids"] if packed else np.ones_like(ids)
        real = rest[0] > 0 if rest else np.ones_like(ids, bool)
        for row in range(len(ids)):
            for segment in set(segments[row][real[row]].tolist()):
                here = real[row] & (segments[row] == segment)
                yield batch, row, [int(ids[row][here][0]), *targets[row][here].tolist()]


@pytest.mark.parametrize("packing", ["stream", "documents", "none"])
def test_windows_are_those_of_the_batches(tmp_path, data, packing):
    run = make_run(tmp_path, data, packing=packing, grad_accumulation=2, batch_size=9)
    windows = Windows(data, Config.load(str(run.path / "run.yaml")))
    total = len(windows.sampler.stream)
    draw, spans = random.Random(1), []
    for length in (1, 2, 7, 24, 25, 26, 60):
        spans += [(s, s + length) for s in (0, *draw.sample(range(total - length), 12))]
    found = [windows.find(*span) for span in spans]
    assert len(windows.epochs) > 2
    every = list(rows(windows))
    for (begin, end), several in zip(spans, found, strict=True):
        expected = []
        for batch, row, tokens in every:
            whole = tokens[0] <= begin and end <= tokens[-1] + 1
            if whole or set(tokens[1:]) & set(range(begin, end)):
                expected.append((batch // 2 + 1, batch, row, tokens[0], tokens[-1] + 1, whole))
        got = [(w.step, w.batch, w.row, w.start, w.end, w.whole) for w in several]
        assert got == sorted(expected, key=lambda window: (window[1], window[2]))


@pytest.mark.parametrize("packing", ["stream", "documents", "none"])
def test_windows_of_skipped_steps_are_not_seen_and_later_ones_earlier(tmp_path, data, packing):
    options = {"packing": packing, "grad_accumulation": 2, "batch_size": 9}
    plain = make_run(tmp_path / "plain", data, **options, max_steps=47)
    run = make_run(tmp_path / "skips", data, **options, skip_steps="3-7,20-21", max_steps=40)
    windows, usual = (Windows(data, Config.load(str(r.path / "run.yaml"))) for r in (run, plain))
    skipped, total = SkippedSteps("3-7,20-21"), len(windows.sampler.stream)
    for begin in range(0, total - 9, 97):
        expected = []
        for window in usual.find(begin, begin + 9):
            step = skipped.step_of(window.step)
            if step is not None:
                moved = window.batch - 2 * (window.step - step)
                expected.append(replace(window, step=step, batch=moved))
        assert windows.find(begin, begin + 9) == expected


def test_a_fork_has_the_steps_of_its_parent_before_its_own(tmp_path, data):
    make_run(tmp_path / "parent", data, batch_size=9, seed=1)
    fork = make_run(tmp_path / "fork", data, batch_size=5, seed=2)
    about = {"run": "run", "path": str(tmp_path / "parent" / "run"), "step": 10}
    (fork.path / "parent.json").write_text(json.dumps(about))
    own, before = Tracer(fork).windows, Lineage(Run(tmp_path / "parent" / "run"), data)
    by_its_options = Windows(data, Config.load(str(fork.path / "run.yaml")))
    for begin in range(0, 2000, 97):
        early = [w for w in before.find(begin, begin + 9) if w.step <= 10]
        late = [w for w in by_its_options.find(begin, begin + 9) if w.step > 10]
        assert own.find(begin, begin + 9) == early + late
    about["path"] = str(tmp_path / "gone")
    (fork.path / "parent.json").write_text(json.dumps(about))
    assert Lineage(fork, data).find(0, 9) == by_its_options.find(0, 9)


def test_texts_are_found_however_they_are_tokenized(tmp_path, data):
    tracer = Tracer(make_run(tmp_path, data, batch_size=9, max_steps=100))  # two epochs
    tokenizer = data.tokenizer
    streams = {split: data.tokens(split).arrays[0].tolist() for split in ("train", "val")}
    texts = {split: tokenizer.decode(ids) for split, ids in streams.items()}
    draw, found = random.Random(2), 0
    for _ in range(100):
        document = draw.choice(documents(150))
        start = draw.randrange(max(1, len(document) - 40))
        text = document[start : start + draw.randint(25, 60)]
        expected = sum(_count(whole, text) for whole in texts.values())
        trace = tracer.trace(text, limit=1000)
        assert trace.found and trace.count == expected, text
        assert len(trace.occurrences) == expected
        for one in trace.occurrences:
            ids = streams[one.split][one.token : one.token + one.tokens]
            assert text in tokenizer.decode(ids)
            assert text not in tokenizer.decode(ids[1:]) and text not in tokenizer.decode(ids[:-1])
            assert bool(one.steps or one.partial_steps) == (one.split == "train")
            offsets = data.document_offsets(one.split)
            assert offsets[one.document] <= one.token
            assert one.document + 1 == len(offsets) or one.token < offsets[one.document + 1]
        found += len(trace.occurrences)
    assert found > 100


def test_a_text_of_two_words_is_found_wherever_it_stands(tmp_path, data):
    texts = TextSearch(Tracer(make_run(tmp_path, data)).arrays, data.tokenizer)
    whole = [data.tokenizer.decode(data.tokens(split).arrays[0].tolist()) for split in texts.arrays]
    draw = random.Random(4)
    for _ in range(60):
        first, second = draw.choice(WORDS), draw.choice(WORDS)
        text = f"{first[draw.randrange(len(first)) :]} {second[: draw.randint(1, len(second))]}"
        assert texts.find(text, 9).count == sum(_count(one, text) for one in whole), text


def test_a_part_of_a_word_is_found_where_a_token_begins(tmp_path, data):
    texts = TextSearch(Tracer(make_run(tmp_path, data)).arrays, data.tokenizer)
    for split, array in texts.arrays.items():
        ids = data.tokens(split).arrays[0].tolist()
        parts = [data.tokenizer.token_bytes(token) or b"\xff" for token in ids]
        rest = [b"".join(parts[i : i + 9]).removeprefix(b" ") for i in range(len(ids))]
        one = TextSearch({split: array}, data.tokenizer)
        for word in (b"wiz", b"o", b"hill", b"nai", b"12", b"cat", b"none"):
            expected = [  # a lone space is not the beginning: the token after it is
                i for i, part in enumerate(rest) if part.startswith(word) and parts[i] != b" "
            ]
            found = one.find(word.decode(), 10**6)
            assert found.count == len(expected), word
            assert [place.token for place in found.first] == expected, word


def _count(whole, text):
    return sum(whole.startswith(text, i) for i in range(len(whole)))


def test_steps_are_those_whose_batches_have_the_text(tmp_path, data):
    tracer = Tracer(make_run(tmp_path, data))
    sampler = Windows(data, tracer.config).sampler
    batches = [sampler.batch(step) for step in range(40)]
    windows = [np.hstack([inputs, targets[:, -1:]]).tolist() for inputs, targets in batches]
    draw, ids = random.Random(3), data.tokens("train").arrays[0].tolist()
    for _ in range(20):
        start = draw.randrange(len(ids) - 20)
        some = ids[start : start + draw.randint(5, 15)]
        expected = [
            step for step, batch in enumerate(windows, 1) if any(_holds(row, some) for row in batch)
        ]
        occurrences = [
            tracer._occurrence(place)
            for place in [_place(token, len(some)) for token in tracer.arrays["train"].find(some)]
        ]
        assert sorted({step for one in occurrences for step in one.steps}) == expected


def _place(token, tokens):
    from kgpt.lab.passages import Place

    return Place("train", int(token), tokens)


def _holds(row, some):
    return any(row[i : i + len(some)] == some for i in range(len(row)))


def test_a_text_that_is_not_there_is_absent_and_its_parts_are_found(tmp_path, data):
    tracer = Tracer(make_run(tmp_path, data))
    document = documents(150)[3]
    trace = tracer.trace(f"Unheard-of beginning: {document[:80]} §§§")
    assert not trace.found and trace.count == 0 and trace.occurrences == []
    assert trace.longest == trace.pieces[0]
    assert document[10:70] in trace.longest.text and trace.longest.count >= 1
    assert trace.longest.occurrences[0].split in ("train", "val")
    copied = tracer.copied(document, min_tokens=8)
    assert copied.novelty.copied == 1 and copied.longest.text == document


def test_the_command_prints_the_trace_as_json(tmp_path, data, monkeypatch, capsys):
    monkeypatch.setenv("KGPT_RUNS", str(tmp_path))
    tracer = Tracer(make_run(tmp_path, data))
    text = documents(150)[7]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": text}) + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["runs", "trace", "run", "--text", text, "--generated", f"{tmp_path}/rows.jsonl",
              "--no-loss", "--json"])  # fmt: skip
    printed = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0 and printed["found"] and printed["max_steps"] == 40
    expected = [dataclasses.asdict(one) for one in tracer.trace(text).occurrences]
    assert printed["occurrences"] == expected
    assert printed["generated"][0]["copied"] == 1
    assert printed["generated"][0]["longest"]["text"] == text


def test_a_data_set_that_has_changed_and_a_run_without_one_are_refused(tmp_path, data):
    run = make_run(tmp_path, data)
    run.write_data(run.data().model_copy(update={"sha256": "0"}))
    with pytest.raises(DataError, match="not the one that the run run was trained on"):
        Tracer(run)
    config = Config.load(str(run.path / "run.yaml"), {"finetune.objective": "dpo"})
    run.write_config(config.to_yaml())
    with pytest.raises(UsageError, match="learns by dpo"):
        Tracer(run)
