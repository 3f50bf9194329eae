"""The tokenizer in the graph gives what the tokenizer on the host gives: ids, and text."""

import functools
import json
import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from kgpt.export.savedmodel.pre_tokenizer import NUM_CODE_POINTS
from kgpt.export.savedmodel.tokenizer import PATTERNS, GraphTokenizer, UnsupportedTokenizer
from kgpt.text.tokenizer import SPECIAL_TOKENS, Tokenizer

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's a dog's life, isn't it? We'll see; I'd.\n",
    "Füchse springen; 狐が跳ぶ。 🦊🦊 naïve café – “quoted”… aaaa aaa\r\n\r\n   don't  \t stop\n",
    "def f(x):\n    return x + 1  # 123 456\n\n\n" * 3,
    "функция İstanbul 'ſ ſ's WE'LL ٣٤٥ ²³ ½\u0301 e\u0301\u00a0\u3000x\u2028y\u0085z ''s !!! ...a",
] * 3


def of_pattern(style, ignore_merges):
    """A tokenizer with the split pattern of Llama 3 or Qwen2."""
    pattern = next(pattern for pattern, known in PATTERNS.items() if known == style)
    inner = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore_merges))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|begin_of_text|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    inner.train_from_iterator(CORPUS, trainer)
    return Tokenizer(inner)


def with_digits(tokenizer):
    """SmolLM2's rules: digits one by one, then GPT-2's pattern."""
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return Tokenizer(inner)


def with_every_merge(tokenizer):
    """Merges as converters from tiktoken write them: every way to make each token, by its rank.

    Then a merge may make a pair that was learned before the merge itself.
    """
    values = json.loads(tokenizer.to_json())
    rank = {a + b: i for i, (a, b) in enumerate(values["model"]["merges"])}
    known = values["model"]["vocab"]
    ways = [
        (name[:cut], name[cut:])
        for name in sorted(rank, key=rank.__getitem__)
        for cut in range(1, len(name))
        if name[:cut] in known and name[cut:] in known
    ]
    values["model"]["merges"] = ways
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(values)))


GPT2 = Tokenizer.train_bpe(CORPUS, vocab_size=600)
TOKENIZERS = {
    "gpt2": GPT2,
    "smollm2": with_digits(GPT2),
    "llama3": with_every_merge(of_pattern("llama3", ignore_merges=True)),
    "tiktoken": with_every_merge(of_pattern("llama3", ignore_merges=False)),
    "qwen2": of_pattern("qwen2", ignore_merges=False),
    "characters": Tokenizer.of_characters(CORPUS),
    "bytes": Tokenizer.of_bytes(),
}
KINDS = pytest.mark.parametrize("kind", TOKENIZERS)
# What patterns treat in ways of their own, and what could be mistaken for a special token.
ODD = [*"  \n\r\t'aabcdelrstvmSTLRE019,.!?-()éжЖ日ſ\u00a0\u200b\u3000²٣५\u0301\x00\x85\u2028🙂"]
ODD += [
    "'s",
    "'LL",
    "'ve",
    "'re",
    " 's",
    " the",
    "  \n",
    "aaaa",
    "\ufffd",
    "\uffff",
    *SPECIAL_TOKENS,
]


@functools.cache
def graph_of(kind):
    return GraphTokenizer(TOKENIZERS[kind])


@functools.cache
def in_graph(kind):
    """(encode, decode) as functions of bytes and of ragged ids."""
    graph = graph_of(kind)
    ids = tf.RaggedTensorSpec([None, None], tf.int32)
    return (
        tf.function(graph.encode, [tf.TensorSpec([None], tf.string)]),
        tf.function(graph.decode, [ids, tf.TensorSpec([], tf.bool)]),
    )


def encode_both(kind, texts):
    """The ids of bytes: from the graph, and from the host."""
    read = [text.decode("utf-8", "replace") for text in texts]
    return in_graph(kind)[0](tf.constant(texts)).to_list(), TOKENIZERS[kind].encode_batch(read)


def fuzzed(seed, count):
    """Strings of bytes: words, odd characters, all planes, damaged UTF-8, noise, nothing."""
    draw = random.Random(seed)
    words = " ".join(CORPUS).split(" ")

    def one():
        size = draw.randint(0, 25)
        kind = draw.randrange(5)
        if kind == 0:
            return " ".join(draw.choices(words, k=size)).encode()
        if kind == 1:
            planes = [range(0xD800), range(0xE000, NUM_CODE_POINTS), range(0x3000)]
            return "".join(chr(draw.choice(draw.choice(planes))) for _ in range(size)).encode()
        if kind == 2:
            return draw.randbytes(size)
        text = bytearray("".join(draw.choices(ODD, k=size)).encode())
        for _ in range(3 * (kind == 3 and len(text) > 0)):
            text[draw.randrange(len(text))] = draw.randrange(256)
        return bytes(text)

    return [b"", *(one() for _ in range(count - 1))]


@KINDS
@given(st.lists(st.one_of(st.text(), st.sampled_from(ODD))).map("".join))
def test_ids_equal_the_hosts(kind, text):
    ours, hosts = encode_both(kind, [text.encode()])
    assert ours == hosts


@KINDS
def test_ids_equal_the_hosts_on_many_strings_at_once(kind):
    ours, hosts = encode_both(kind, fuzzed(1, 2000))
    assert ours == hosts


@pytest.mark.slow
@KINDS
def test_ids_equal_the_hosts_on_twenty_thousand_strings(kind):
    ours, hosts = encode_both(kind, fuzzed(2, 20_000))
    assert ours == hosts


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("around", ["{0}", "a{0}b", "1{0}1", " {0} {0}", "!{0}\n{0}", "'{0}'s{0}"])
def test_every_character_of_unicode_in_its_surroundings(kind, around):
    points = [*range(0xD800), *range(0xE000, NUM_CODE_POINTS)]
    ours, hosts = encode_both(kind, [around.format(chr(point)).encode() for point in points])
    assert ours == hosts


@KINDS
@pytest.mark.parametrize(
    "text",
    ["a" * 100_000, " \n" * 50_000, "".join(random.Random(0).choices("acgt", k=100_000)),
     "".join(random.Random(0).choices(ODD, k=60_000)), (" ".join(CORPUS) * 200)[:100_000]],
    ids=["one letter", "white", "four letters", "odd", "words"],
)  # fmt: skip
def test_ids_of_100_kilobytes_equal_the_hosts(kind, text):
    ours, hosts = encode_both(kind, [text.encode()])
    assert ours == hosts


@KINDS
def test_no_texts_and_empty_texts(kind):
    encode, decode = in_graph(kind)
    assert encode(tf.constant([], tf.string)).to_list() == []
    assert encode(tf.constant([b"", b""])).to_list() == [[], []]
    empty = tf.ragged.constant([[], []], dtype=tf.int32, ragged_rank=1)
    assert decode(empty, True).numpy().tolist() == [b"", b""]


@KINDS
@pytest.mark.parametrize("skip_special", [True, False])
def test_text_equals_the_hosts_also_where_ids_are_nonsense(kind, skip_special):
    tokenizer = TOKENIZERS[kind]
    draw = random.Random(3)
    special = sorted(tokenizer.special_by_id)
    ids = [
        [draw.choice([draw.randrange(tokenizer.vocab_size), *special]) for _ in range(length)]
        for length in np.random.default_rng(0).integers(0, 12, 2000)
    ]
    ids[0] = [-1, tokenizer.vocab_size, special[0], 5]
    hosts = [tokenizer.decode(row, skip_special_tokens=skip_special).encode() for row in ids]
    ragged = tf.ragged.constant(ids, dtype=tf.int32, ragged_rank=1)
    assert in_graph(kind)[1](ragged, skip_special).numpy().tolist() == hosts


def test_merges_that_make_earlier_pairs_are_among_the_examples():
    """Else the examples would not tell whether such merges are done in the right order."""
    assert graph_of("tiktoken").merger.sequential.numpy().any()


def changed(**changes):
    """GPT-2's rules with some values of tokenizer.json replaced."""
    values = json.loads(GPT2.to_json()) | changes
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(values)))


def normalising():
    inner = tokenizers.Tokenizer.from_str(GPT2.to_json())
    inner.normalizer = normalizers.NFC()
    return Tokenizer(inner)


def cutting():
    inner = tokenizers.Tokenizer.from_str(GPT2.to_json())
    inner.add_tokens(["<tool>"])
    return Tokenizer(inner)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (normalising, "it normalises text"),
        (cutting, "it splits '<tool>' out of every text"),
        (
            lambda: changed(pre_tokenizer={"type": "Whitespace"}),
            "its pre-tokenizer is not supported",
        ),
        (lambda: changed(pre_tokenizer=None), "its pre-tokenizer is not supported"),
        (lambda: Tokenizer(tokenizers.Tokenizer(models.Unigram([("a", 0.0)]))), "not BPE"),
    ],
)
def test_other_rules_are_refused_by_name(make, reason):
    with pytest.raises(UnsupportedTokenizer, match=reason):
        GraphTokenizer(make())
