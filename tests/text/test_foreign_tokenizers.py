"""Tokenizers of other kinds decode id by id as their own decoder does, or are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from kgpt.errors import DataError
from kgpt.text.special_tokens import SpecialTokens
from kgpt.text.tokenizer import Tokenizer

TEXT = "It isn't here, the fox; it's 12.5 km (or more) away, I'm sure! Do not go? We've seen."


def trained(model, trainer, pre_tokenizer, decoder=None, normalizer=None):
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.train_from_iterator([TEXT] * 9, trainer)
    return backend


def word_piece(cleanup):
    return trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False),
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(cleanup=cleanup),
        normalizers.BertNormalizer(),
    )


BACKENDS = {
    "WordPiece": word_piece(cleanup=True),
    "WordPiece without clean-up": word_piece(cleanup=False),
    "WordLevel": trained(
        models.WordLevel(unk_token="[UNK]"),
        trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False),
        pre_tokenizers.Whitespace(),
    ),
    "Unigram": trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=80, show_progress=False),
        pre_tokenizers.Metaspace(),
        decoders.Metaspace(),
    ),
}


@pytest.mark.parametrize("kind", BACKENDS)
@given(words=st.lists(st.sampled_from(TEXT.split()), max_size=12))
def test_ids_decode_as_by_the_tokenizers_own_decoder(tmp_path_factory, kind, words):
    folder = tmp_path_factory.mktemp("tokenizer")
    BACKENDS[kind].save(str(folder / "tokenizer.json"))
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(" ".join(words))
    own = BACKENDS[kind].decode(ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == own
    stream = tokenizer.stream(continues=False)
    assert "".join([stream.feed(token_id) for token_id in ids]) + stream.finish() == own


def test_words_that_end_in_a_mark_are_refused(tmp_path):
    backend = trained(
        models.BPE(end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=200, end_of_word_suffix="</w>", show_progress=False),
        pre_tokenizers.Whitespace(),
        decoders.BPEDecoder(),
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="The BPE tokenizer of .* decodes text in a way that kgpt"):
        Tokenizer.load(tmp_path)


def test_stop_ids_and_template_are_read_without_a_tokenizer_config(tmp_path):
    Tokenizer.of_bytes(["<s>", "</s>", "<end>"]).save(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [257, 258]}))
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    found = Tokenizer.load(tmp_path).special_tokens
    assert found == SpecialTokens({}, frozenset({257, 258}), "{{ messages[0].content }}")


def test_kgpts_own_tokens_are_known_without_any_file(tmp_path):
    Tokenizer.of_bytes().save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 3}))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special_tokens.tokens["eos_token"] == "<|endoftext|>"
    assert tokenizer.stop_ids == Tokenizer.of_bytes().stop_ids | {3}
    assert tokenizer.special_tokens.chat_template is not None
