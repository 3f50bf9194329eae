"""The suffix array finds what a scan of the tokens finds, across blocks and shards."""

import dataclasses

import numpy as np
import pytest

from kgpt.data import suffix_array, suffix_sort
from kgpt.data.novelty import longest_spans, novelty, separate_spans
from kgpt.data.shard_writer import SplitWriter, write_manifest
from kgpt.data.shards import Manifest, TokenDataset, TokenStream
from kgpt.data.suffix_array import SuffixArray, open_suffix_arrays
from kgpt.text.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks, chunks and depth that a few tokens exceed."""
    monkeypatch.setattr(suffix_array, "BLOCK_TOKENS", 70)
    monkeypatch.setattr(suffix_array, "DEPTH", 4)
    monkeypatch.setattr(suffix_array, "COLUMNS", 3)
    monkeypatch.setattr(suffix_sort, "CHUNK", 9)


def scan(ids, query):
    return [i for i in range(len(ids) - len(query) + 1) if list(ids[i : i + len(query)]) == query]


def array_of(ids, shard=55):
    stream = TokenStream([ids[i : i + shard] for i in range(0, len(ids), shard)])
    begins = range(0, len(ids), 70)
    order = np.concatenate([suffix_array._sort_block(stream, begin) for begin in begins])
    return SuffixArray(stream, order, 70)


@pytest.mark.parametrize(("values", "vocab_size"), [(1, 1), (3, 3), (2, 99999), (3, 99999)])
def test_suffixes_are_sorted_by_their_first_tokens(values, vocab_size):
    """Of the larger vocabulary two tokens fit into a key, the rest is refined."""
    for seed in range(20):
        ids = np.random.default_rng(seed).integers(0, values, 60).astype("uint32")
        order = suffix_sort.sort_suffixes(ids, vocab_size, 8)
        keys = [ids[i : i + 8].tolist() for i in order]
        assert sorted(order.tolist()) == list(range(60)) and keys == sorted(keys)


@pytest.mark.parametrize("vocab_size", [1, 2, 5])
def test_positions_and_counts_equal_a_scan(vocab_size):
    random = np.random.default_rng(1)
    ids = random.integers(0, vocab_size, 300).astype(np.uint16)
    ids[200:240] = ids[50:90]  # a repetition longer than the depth, across the end of a block
    array = array_of(ids)
    for _ in range(50):
        start, length = int(random.integers(0, 290)), int(random.integers(1, 30))
        query = ids[start : start + length].tolist()
        if random.random() < 0.3:
            query[-1] = vocab_size  # nowhere
        found = scan(ids, query)
        assert array.find(query).tolist() == found
        assert array.find(query, 3).tolist() == found[:3]
        assert array.count(query) == len(found)


@pytest.mark.parametrize("vocab_size", [2, 6])
def test_longest_matches_equal_a_scan(vocab_size):
    random = np.random.default_rng(2)
    ids = random.integers(0, vocab_size, 300).astype(np.uint16)
    array = array_of(ids)
    for _ in range(10):
        start = int(random.integers(0, 250))
        query = [*ids[start : start + 40].tolist(), vocab_size, *ids[:25].tolist()]
        query[int(random.integers(0, 40))] = int(random.integers(0, vocab_size))
        matches = array.longest_matches(np.array(query))
        for place, (length, position) in enumerate(matches):
            rest = query[place:]
            assert ids[position : position + length].tolist() == rest[:length]
            assert length == len(rest) or not scan(ids, rest[: length + 1])


def data_set(folder, train, val):
    folder.mkdir()
    tokenizer = Tokenizer.of_bytes()
    writers = {name: SplitWriter(folder, name, "uint16", False, 100) for name in ("train", "val")}
    for writer, ids in zip(writers.values(), (train, val), strict=True):
        writer.begin_documents([0])
        writer.write(ids)
    tokenizer.save(folder)
    splits = {name: writer.close() for name, writer in writers.items()}
    fingerprint = tokenizer.fingerprint
    manifest = Manifest(tokenizer_sha256=fingerprint, vocab_size=259, dtype="uint16", splits=splits)
    write_manifest(folder, manifest)
    return TokenDataset(folder)


def test_the_index_is_built_once_and_again_for_other_data(tmp_path):
    train = np.random.default_rng(3).integers(0, 5, 250)
    sorted_tokens = []
    data = data_set(tmp_path / "a", train, train[:0])
    first = open_suffix_arrays(data, progress=sorted_tokens.append)
    assert sorted_tokens[-1] == 250 and not first["val"].find([1]).size
    built, again = len(sorted_tokens), open_suffix_arrays(data, progress=sorted_tokens.append)
    assert len(sorted_tokens) == built
    assert again["train"].find([3, 1]).tolist() == scan(train, [3, 1])
    other = data_set(tmp_path / "b", train[::-1], train[:0])
    open_suffix_arrays(other, data.folder / "suffix_array", progress=sorted_tokens.append)
    assert len(sorted_tokens) > built


def test_novelty_is_the_share_of_tokens_in_long_copied_spans():
    ids = np.random.default_rng(4).integers(0, 50, 300).astype(np.uint16)
    index = {"train": array_of(ids)}
    text = [*ids[100:120].tolist(), *[50] * 10, *ids[7:10].tolist(), *[50] * 7]
    result = novelty(text, index, min_tokens=8)
    assert result.copied == 20 / 40 and result.tokens == 40
    assert dataclasses.astuple(result.longest) == (0, 20, "train", 100)
    assert novelty(text, index, min_tokens=3).copied == 23 / 40
    assert novelty([50] * 5, index).longest is None and novelty([], index).copied == 0
    spans = separate_spans(longest_spans(text, index), 2)
    assert [(span.start, span.tokens, span.token) for span in spans] == [(0, 20, 100), (30, 3, 7)]
