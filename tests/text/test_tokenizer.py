"""Text to ids and back: exact for every string, with every kind of vocabulary."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from kgpt.errors import DataError, UsageError
from kgpt.text.tokenizer import SPECIAL_TOKENS, Tokenizer, clean

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's a dog's life, isn't it?\n\n",
    "Füchse springen; 狐が跳ぶ。 🦊🦊 naïve café – “quoted”…\n",
    "def f(x):\n    return x + 1  # 123 456\n" * 20,
] * 2
TOKENIZERS = {
    "bpe": Tokenizer.train_bpe(CORPUS, vocab_size=400),
    "char": Tokenizer.of_characters(CORPUS),
    "byte": Tokenizer.of_bytes(),
}
# Any Unicode text, with what could be mistaken for a token's name mixed in.
TEXT = st.lists(
    st.one_of(st.text(), st.sampled_from([*SPECIAL_TOKENS, "<0x41>", "Ġ", "▁", " the", "\r\n"]))
).map("".join)
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)


@KINDS
@given(text=TEXT)
def test_every_text_comes_back(kind, text):
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@KINDS
def test_every_character_of_unicode_comes_back(kind):
    tokenizer = TOKENIZERS[kind]
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)]))
    assert tokenizer.decode(tokenizer.encode(everything)) == everything


@KINDS
def test_lone_surrogates_become_the_replacement_character(kind):
    tokenizer = TOKENIZERS[kind]
    assert tokenizer.decode(tokenizer.encode("a\ud83eb")) == "a\ufffdb"
    assert clean("\ud83e\udd8a") == "🦊"  # a pair that Python kept apart is one character


@KINDS
@given(data=st.data())
def test_streamed_pieces_join_to_the_decoded_whole(kind, data):
    """For any ids, even those that are no UTF-8, as an untrained model writes them."""
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    skip = data.draw(st.booleans())
    stream = tokenizer.stream(skip_special_tokens=skip)
    streamed = [stream.feed(token_id) for token_id in ids] + [stream.finish()]
    assert "".join(streamed) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.integers(0, 255)))
def test_bytes_that_are_no_utf8_are_replaced_as_python_does(ids):
    for kind, first in (("byte", 0), ("char", TOKENIZERS["char"].token_to_id("<0x00>"))):
        decoded = TOKENIZERS[kind].decode([first + byte for byte in ids])
        assert decoded == bytes(ids).decode("utf-8", "replace")


@KINDS
@given(text=TEXT)
def test_decoding_agrees_with_the_tokenizers_library(kind, text):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, allow_special=True)
    for skip in (False, True):
        theirs = tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=skip)
        assert tokenizer.decode(ids, skip_special_tokens=skip) == theirs


@given(words=st.lists(st.sampled_from(["a", "low", " ", "狐", "\n", "lower"])))
def test_a_sentencepiece_vocabulary_of_others_is_decoded_as_the_library_does(words):
    tokenizer, text = sentencepiece_like(), "".join(words)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text == tokenizer.backend_tokenizer.decode(ids)
    stream = tokenizer.stream()  # of a reply: the space before its first word counts
    assert "".join(map(stream.feed, ids)) == (f" {text}" if text else "")


def sentencepiece_like():
    """A tokenizer of Llama 2's making: visible spaces, bytes for what it does not know."""
    names = [*"▁alower\n", "lo", "low", *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [("l", "o"), ("lo", "w")]
    vocabulary = {name: i for i, name in enumerate(names)}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(inner)


@KINDS
@given(text=TEXT)
def test_no_piece_holds_half_a_character(kind, text):
    tokenizer = TOKENIZERS[kind]
    stream, so_far = tokenizer.stream(), ""
    for token_id in tokenizer.encode(text):
        so_far += stream.feed(token_id)
        assert text.startswith(so_far)
    assert so_far == text
    assert stream.finish() == ""


def test_an_unfinished_character_is_shown_only_at_the_end():
    tokenizer = TOKENIZERS["byte"]
    stream = tokenizer.stream()
    assert [stream.feed(byte) for byte in "é🦊".encode()[:-1]] == ["", "é", "", "", ""]
    assert stream.finish() == "\ufffd"


@KINDS
def test_what_looks_like_a_special_token_is_text_unless_allowed(kind):
    tokenizer = TOKENIZERS[kind]
    text = "a<|endoftext|>b<|im_start|>"
    assert not tokenizer.special_by_id.keys() & set(tokenizer.encode(text))
    allowed = tokenizer.encode(text, allow_special=True)
    assert tokenizer.eos_id in allowed
    assert tokenizer.decode(allowed) == text
    assert tokenizer.decode(allowed, skip_special_tokens=True) == "ab"
    assert tokenizer.encode(text) != allowed  # the permission does not outlive the call


@KINDS
@given(text=TEXT)
def test_saved_and_reloaded_it_is_the_same(kind, text, tmp_path_factory):
    tokenizer = TOKENIZERS[kind]
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    reloaded = Tokenizer.load(folder)
    assert reloaded.encode(text) == tokenizer.encode(text)
    assert reloaded.fingerprint == tokenizer.fingerprint
    assert reloaded.to_json() == tokenizer.to_json()


def test_training_twice_gives_the_same_vocabulary():
    again = Tokenizer.train_bpe(iter(CORPUS), vocab_size=400)
    assert again.fingerprint == TOKENIZERS["bpe"].fingerprint
    assert Tokenizer.train_bpe(CORPUS, vocab_size=280).fingerprint != again.fingerprint


def test_bpe_has_the_size_asked_for_and_shortens_text():
    tokenizer = TOKENIZERS["bpe"]
    text = CORPUS[0]
    assert 256 + len(SPECIAL_TOKENS) < tokenizer.vocab_size <= 400
    assert len(tokenizer.encode(text)) < len(text) / 2


def test_a_pair_rarer_than_the_minimum_frequency_is_no_token():
    rare = Tokenizer.train_bpe(["xyxy xyxy qq"], vocab_size=300, min_frequency=2)
    assert rare.token_to_id("xy") is not None
    assert rare.token_to_id("qq") is None


def test_characters_are_one_token_each():
    tokenizer = TOKENIZERS["char"]
    assert len(tokenizer.encode("dog 狐")) == 5
    assert len(tokenizer.encode("ж")) == 2  # never seen: encoded as its bytes


def test_ids_of_bytes_are_the_bytes():
    text = "naïve 🦊"
    assert TOKENIZERS["byte"].encode(text) == list(text.encode())


@KINDS
@given(text=TEXT)
def test_bytes_of_tokens_join_to_the_text(kind, text):
    tokenizer = TOKENIZERS[kind]
    parts = [tokenizer.token_bytes(token_id) for token_id in tokenizer.encode(text)]
    assert b"".join(parts) == text.encode()


def test_ids_outside_the_vocabulary_have_no_bytes():
    tokenizer = TOKENIZERS["byte"]
    assert tokenizer.token_bytes(-1) is None
    assert tokenizer.token_bytes(10**6) is None
    assert tokenizer.token_bytes(tokenizer.eos_id) is None


def test_a_batch_encodes_as_its_texts_one_by_one():
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.encode_batch(CORPUS) == [tokenizer.encode(text) for text in CORPUS]


def test_a_vocabulary_too_small_for_the_bytes_is_refused():
    with pytest.raises(UsageError, match=r"A vocabulary of 100 .* at least 259\."):
        Tokenizer.train_bpe(CORPUS, vocab_size=100)


def test_a_missing_or_damaged_tokenizer_is_said_so(tmp_path):
    with pytest.raises(DataError, match="There is no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="tokenizer.json is damaged"):
        Tokenizer.load(tmp_path)
