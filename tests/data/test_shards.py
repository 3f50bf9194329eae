"""Shards on disk: exact, checked, and read as one sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.shard_writer import SplitWriter, write_manifest
from kgpt.data.shards import Manifest, TokenDataset, TokenStream
from kgpt.errors import DataError
from kgpt.text.tokenizer import Tokenizer

DOCUMENTS = st.lists(st.lists(st.tuples(st.integers(0, 255), st.booleans()), max_size=30))


def write(folder, documents, shard_bytes=1 << 20, masked=True):
    """A data set of `documents`, lists of (id, learn)."""
    tokenizer = Tokenizer.of_bytes()
    tokenizer.save(folder)
    writer = SplitWriter(folder, "train", "uint16", masked, shard_bytes)
    for document in documents:
        writer.begin_documents([0])
        for token_id, learn in document:
            writer.write([token_id], learn)
    manifest = Manifest(
        tokenizer_sha256=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        dtype="uint16",
        splits={"train": writer.close()},
    )
    write_manifest(folder, manifest)
    return folder


@given(documents=DOCUMENTS, shard_bytes=st.integers(2, 40))
def test_what_is_written_is_read_however_it_is_sharded(documents, shard_bytes, tmp_path_factory):
    data = TokenDataset(write(tmp_path_factory.mktemp("data"), documents, shard_bytes))
    data.verify()
    flat = [pair for document in documents for pair in document]
    stream, learn = data.tokens("train"), data.loss_mask("train")
    assert len(stream) == len(flat)
    if flat:
        window = np.array([0])
        assert stream.windows(window, len(flat))[0].tolist() == [token for token, _ in flat]
        assert learn.windows(window, len(flat))[0].tolist() == [by for _, by in flat]
    sizes = np.cumsum([0, *map(len, documents)])
    assert data.document_offsets("train").tolist() == sizes[:-1].tolist()


@given(cuts=st.lists(st.integers(0, 50)), starts=st.lists(st.integers(0, 40)), data=st.data())
def test_windows_cross_shards(cuts, starts, data):
    whole = np.arange(50)
    stream = TokenStream(np.split(whole, sorted(cuts)))
    length = data.draw(st.integers(1, 10))
    windows = stream.windows(np.array(starts, dtype=np.int64), length) if starts else []
    assert [list(w) for w in windows] == [list(whole[s : s + length]) for s in starts]


@pytest.mark.parametrize("cuts", [[], [20]])
@pytest.mark.parametrize("bad", [50, 2**32 - 1])
def test_an_id_beyond_the_vocabulary_is_refused_where_it_is_read(cuts, bad):
    ids = np.arange(50, dtype=np.uint32)
    ids[30] = bad
    stream = TokenStream(np.split(ids, cuts), vocab_size=50)
    assert stream.windows(np.array([0, 25]), 5).shape == (2, 5)
    with pytest.raises(DataError, match=f"id is {bad}, but the data set has a vocabulary of 50"):
        stream.windows(np.array([0, 28]), 5)


def test_a_data_set_without_conversations_has_no_mask(tmp_path):
    data = TokenDataset(write(tmp_path, [[(1, True), (2, True)]], masked=False))
    assert data.loss_mask("train") is None
    assert not list(tmp_path.glob("*.loss_mask"))


@pytest.mark.parametrize("file", ["train-00000.bin", "train-00000.loss_mask"])
def test_a_flipped_byte_is_found(tmp_path, file):
    folder = write(tmp_path, [[(i, True) for i in range(100)]])
    bytes_ = bytearray((folder / file).read_bytes())
    bytes_[37] ^= 1
    (folder / file).write_bytes(bytes_)
    with pytest.raises(DataError, match=rf"bytes of {file} have changed; make it again"):
        TokenDataset(folder).verify()


def test_a_loss_mask_under_its_former_name_is_read(tmp_path):
    """Data sets made before the file was called .loss_mask keep working."""
    folder = write(tmp_path, [[(7, True), (8, False)]])
    (folder / "train-00000.loss_mask").rename(folder / "train-00000.learn")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("loss_mask_sha256", "learn_sha256"))
    data = TokenDataset(folder)
    data.verify()
    assert data.loss_mask("train").windows(np.array([0]), 2).tolist() == [[1, 0]]


def cut_short(folder):
    file = folder / "train-00000.bin"
    file.write_bytes(file.read_bytes()[:-1])


def remove_shard(folder):
    (folder / "train-00000.bin").unlink()


def exchange_tokenizer(folder):
    Tokenizer.of_bytes(special_tokens=[]).save(folder)


def damage_manifest(folder):
    (folder / "manifest.json").write_text('{"format": 1')


def newer_format(folder):
    text = (folder / "manifest.json").read_text().replace('"format": 1', '"format": 99')
    (folder / "manifest.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (cut_short, "train-00000.bin is missing or has the wrong size"),
        (remove_shard, "train-00000.bin is missing or has the wrong size"),
        (exchange_tokenizer, "tokenizer.json is not the one that made it"),
        (damage_manifest, "its manifest.json is not one of kgpt's"),
        (newer_format, "it has format 99, this kgpt reads 1"),
    ],
)
def test_damage_is_found_when_the_data_set_is_opened(tmp_path, damage, sentence):
    folder = write(tmp_path, [[(1, True)] * 10])
    damage(folder)
    with pytest.raises(DataError, match=f"cannot be used: {sentence}"):
        _ = TokenDataset(folder).tokenizer


def test_a_missing_data_set_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="kgpt data prepare YOUR_TEXT --out .*nowhere"):
        TokenDataset(tmp_path / "nowhere")
