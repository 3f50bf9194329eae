"""Chunks of a text encode as the whole, for the pre-tokenizers of all models in use."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from kgpt.text.chunking import chunk_text
from kgpt.text.tokenizer import Tokenizer

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}" + REST
CORPUS = ["The cat's 1234 hats, they're old.\n\nWe'll see: 3.14!\n  don't  stop...\n"] * 9
TEXT = st.lists(
    st.one_of(
        st.text(max_size=9),
        st.sampled_from(
            [" cat", "'s", "\n", "\n\n", "  ", "12345", ".\n", "e\u0301", "don't", "，好"]
        ),
    )
)


def trained(pattern):
    inner = Library(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=sorted(alphabet), show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return Tokenizer(inner)


TOKENIZERS = {
    "kgpt": Tokenizer.train_bpe(CORPUS, vocab_size=500),
    "gpt2": trained(GPT2),
    "llama3": trained(LLAMA3),
    "qwen": trained(QWEN),
    "char": Tokenizer.of_characters(CORPUS),
    "byte": Tokenizer.of_bytes(),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=200)
@given(parts=TEXT, size=st.integers(1, 20))
def test_chunks_encode_as_the_whole(kind, parts, size):
    tokenizer = TOKENIZERS[kind]
    chunks = list(chunk_text(iter(parts), size))
    assert "".join(chunks) == "".join(parts)
    ids = [token_id for ids in tokenizer.encode_batch(chunks) for token_id in ids]
    assert ids == tokenizer.encode("".join(parts))


@given(parts=st.lists(st.text()), size=st.integers(1, 9), max_size=st.integers(10, 20))
def test_no_chunk_is_longer_than_the_limit(parts, size, max_size):
    chunks = list(chunk_text(iter(parts), size, max_size))
    assert "".join(chunks) == "".join(parts)
    assert all(len(chunk) <= max_size for chunk in chunks)


def test_chunks_do_not_depend_on_the_parts_of_the_stream():
    text = "".join(CORPUS) * 5
    whole = list(chunk_text([text], 50))
    assert list(chunk_text(iter(text), 50)) == whole
    assert max(map(len, whole)) < 80


def test_a_stream_without_boundaries_is_read_in_linear_time():
    """Searching or joining again for every part would take hours on these 20 MB."""
    parts = ("x" * 100 for _ in range(200_000))
    assert sum(map(len, chunk_text(parts, max_size=1 << 30))) == 20_000_000
