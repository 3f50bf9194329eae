"""A data set at an address: the batches of a local one, through a cache of bounded size."""

import fsspec
import numpy as np
import pytest

from kgpt.data import remote
from kgpt.data.prepare import prepare
from kgpt.data.shard_cache import RemoteDataSet, RemoteShards, ShardCache, StoredFile
from kgpt.data.shard_writer import SplitWriter
from kgpt.data.shards import TokenDataset
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import Tokenizer

ADDRESS = "memory://bucket/set"
NAMES = [f"train-{number:05d}.bin" for number in range(9)]


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A data set in nine shards of 100 tokens, here and in fsspec's store in memory."""
    monkeypatch.setenv("KGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAIT_S", 0)
    monkeypatch.setattr(SplitWriter.__init__, "__defaults__", (200,))
    (tmp_path / "a.txt").write_text("".join(chr(65 + n % 26) for n in range(950)))
    prepare(Corpus([str(tmp_path / "a.txt")]), Tokenizer.of_bytes(), tmp_path / "set")
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.put(str(tmp_path / "set") + "/", "/bucket/set/", recursive=True)
    yield TokenDataset(tmp_path / "set")
    store.store.clear()


@pytest.fixture
def fetched(monkeypatch):
    """The names of the files that are copied from the store."""
    names, fetch = [], remote.fetch

    def watched(address, *args, **kwargs):
        names.append(address.rpartition("/")[2])
        fetch(address, *args, **kwargs)

    monkeypatch.setattr("kgpt.data.shard_cache.fetch", watched)
    return names


def cached(tmp_path):
    return list((tmp_path / "cache" / "shards").glob("[!.]*"))


def test_a_remote_data_set_reads_as_the_local_one(local, fetched, tmp_path):
    data = TokenDataset(ADDRESS)
    assert not cached(tmp_path)  # a shard is copied when it is read
    assert data.manifest == local.manifest
    assert data.tokenizer.fingerprint == local.tokenizer.fingerprint
    for split in ("train", "val"):
        np.testing.assert_array_equal(data.document_offsets(split), local.document_offsets(split))
        starts = np.arange(0, len(local.tokens(split)) - 5, 7)
        ours, theirs = (each.tokens(split).windows(starts, 5) for each in (data, local))
        np.testing.assert_array_equal(ours, theirs)
    data.verify()
    before = len(fetched)
    again = TokenDataset(ADDRESS)
    again.verify()
    assert fetched[before:] == ["manifest.json"]
    assert sorted(set(fetched)) == sorted([*NAMES, "val-00000.bin", "manifest.json",
        "tokenizer.json", "tokenizer_config.json", "train.starts", "val.starts"])  # fmt: skip


def test_the_cache_stays_within_its_bound(local, fetched, tmp_path, monkeypatch):
    monkeypatch.setenv("KGPT_CACHE_GB", str(650 / 10**9))  # three shards of 200 bytes
    stream, expected = TokenDataset(ADDRESS).tokens("train"), local.tokens("train")
    for start in [0, 100, 0, 200, 0, 300, 0, 400, 0]:  # the first is used again and again
        where = np.array([start])
        np.testing.assert_array_equal(stream.windows(where, 60), expected.windows(where, 60))
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= 650
    assert fetched.count("train-00000.bin") == 1
    stream.windows(np.array([100]), 60)
    assert fetched.count("train-00001.bin") == 2


def test_an_interrupted_copy_is_not_taken_for_a_shard(local, tmp_path, monkeypatch):
    shard = local.manifest.splits["train"].shards[0]
    folder = tmp_path / "cache" / "shards"
    folder.mkdir(parents=True)
    (folder / f".partial-{shard.sha256}").write_bytes(b"half")
    (folder / shard.sha256).write_bytes(b"half")  # a disk that lost the rest
    read = TokenDataset(ADDRESS).tokens("train").windows(np.array([0]), 50)
    np.testing.assert_array_equal(read, local.tokens("train").windows(np.array([0]), 50))


def test_a_shard_that_another_process_evicts_is_copied_again(local, monkeypatch):
    data_set, opened = RemoteDataSet(ADDRESS), []
    shard = local.manifest.splits["train"].shards[0]
    find = data_set.shard

    def evicted_once(file):
        path = find(file)
        if not opened:
            path.unlink()
        opened.append(path)
        return path

    monkeypatch.setattr(data_set, "shard", evicted_once)
    files = [StoredFile("train-00000.bin", 200, shard.sha256)]
    shards = RemoteShards(data_set, files, np.dtype("uint16"))
    np.testing.assert_array_equal(shards[0], local.tokens("train").arrays[0])
    assert len(opened) == 2


def test_every_fault_is_one_sentence(local, tmp_path, monkeypatch):
    store = fsspec.filesystem("memory")
    with pytest.raises(DataError, match="There is no data set at memory://none: .*does not exist"):
        TokenDataset("memory://none")
    store.pipe("/bucket/set/train-00003.bin", b"\x01" * 200)
    with pytest.raises(DataError, match="train-00003.bin has not the expected bytes"):
        TokenDataset(ADDRESS).tokens("train").windows(np.array([300]), 9)
    store.pipe("/bucket/set/train-00004.bin", b"\x01" * 20)
    with pytest.raises(DataError, match="train-00004.bin has not the expected bytes"):
        TokenDataset(ADDRESS).tokens("train").arrays[4]
    store.rm("/bucket/set/train-00005.bin")
    with pytest.raises(UsageError, match="train-00005.bin does not exist"):
        TokenDataset(ADDRESS).tokens("train").arrays[5]
    monkeypatch.setenv("KGPT_CACHE_GB", "1e-9")
    with pytest.raises(DataError, match="has 200 bytes, more than the cache in .* KGPT_CACHE_GB"):
        TokenDataset(ADDRESS).tokens("train").arrays[0]
    monkeypatch.setenv("KGPT_CACHE_GB", "much")
    with pytest.raises(UsageError, match="KGPT_CACHE_GB should be a number of gigabytes"):
        ShardCache()
    assert not [path for path in cached(tmp_path) if path.stat().st_size != 200]


def test_a_data_set_that_was_replaced_is_read_anew(local, tmp_path):
    assert TokenDataset(ADDRESS).document_offsets("train").size == 1
    rows = tmp_path / "b.jsonl"
    rows.write_text('{"text": "x"}\n{"text": "y"}\n{"text": "z"}\n')
    tokenizer = Tokenizer.of_bytes(["<|endoftext|>"])
    prepare(Corpus([str(rows)]), tokenizer, tmp_path / "other")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "other") + "/", "/bucket/set/", recursive=True)
    data = TokenDataset(ADDRESS)
    assert data.document_offsets("train").size == 2
    assert data.tokenizer.fingerprint == tokenizer.fingerprint
