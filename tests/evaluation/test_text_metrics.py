"""Metrics of generated texts: values computed by hand, invariants, and agreement with others."""

import builtins
import math

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from kgpt.data.prepare import prepare
from kgpt.data.sources import Corpus
from kgpt.errors import DataError, UsageError
from kgpt.evaluation.text_metrics import (
    distinct_n,
    exact_match,
    longest_repeat,
    mtld,
    rep_n,
    rouge_scores,
    sacrebleu_scores,
    score_texts,
    self_bleu,
    type_token_ratio,
)
from kgpt.evaluation.text_metrics.copying import copying_statistics
from kgpt.evaluation.text_metrics.words import ngrams, tokens_of, words_of
from kgpt.text.tokenizer import Tokenizer

few_words = st.lists(st.sampled_from("abcd"), max_size=14)

TEXTS = ["The cat sat on the mat.", "A dog ran off", "It is 3.5 miles, he said", ""]
REFERENCES = [
    ["The cat sat on a mat.", "There was a cat on the mat."],
    ["A dog ran away."],
    ["It's 3.5 miles, she says."],
    ["something"],
]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("  \n", []),
        ("Don't stop!", ["don", "'", "t", "stop", "!"]),
        ("Ärger für 2 €", ["ärger", "für", "2", "€"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("我爱你", ["我", "爱", "你"]),
    ],
)
def test_tokens(text, tokens):
    assert tokens_of(text) == tokens
    assert words_of(text) == [token for token in tokens if token not in "'!€"]


def test_distinct_n_by_hand():
    texts = [["a", "b", "a", "b"], ["a", "b", "c"], ["d"]]
    assert distinct_n(texts, 1).value == 4 / 8
    assert distinct_n(texts, 2).value == 3 / 5  # ab ba ab, ab bc
    assert distinct_n(texts, 3).value == 3 / 3  # aba bab, abc
    assert distinct_n(texts, 4).value == 1.0
    assert distinct_n(texts, 5).value == 0.0


@given(st.lists(few_words, min_size=1), st.integers(1, 4))
def test_what_repeats_is_not_distinct(texts, n):
    for tokens in texts:
        if len(tokens) >= n:
            assert rep_n(tokens, n) == pytest.approx(1 - distinct_n([tokens], n).value)
    assert distinct_n(texts + texts, n).value == pytest.approx(distinct_n(texts, n).value / 2)


@pytest.mark.parametrize(
    ("text", "rep_4", "longest"),
    [
        ("", 0, 0),
        ("a", 0, 0),
        ("a a", 0, 1),
        ("a b c d", 0, 0),
        ("a a a a a a", 2 / 3, 5),  # three 4-grams of one kind; the repeat overlaps itself
        ("a b c a b c a b c", 1 / 2, 6),
        ("x a b c y a b c z", 0, 3),
    ],
)
def test_repetition_by_hand(text, rep_4, longest):
    assert rep_n(text.split()) == pytest.approx(rep_4)
    assert longest_repeat(text.split()) == longest


@given(few_words)
def test_the_longest_repeat_is_the_longest(tokens):
    lengths = [n for n in range(1, len(tokens)) if rep_n(tokens, n) > 0]
    assert longest_repeat(tokens) == max(lengths, default=0)


def test_vocabulary_by_hand():
    assert type_token_ratio([]) == mtld([]) == 0
    assert type_token_ratio(["a", "b", "a", "c"]) == 3 / 4
    assert mtld(["a", "b", "c"]) == 3  # the ratio never falls
    # Forwards: a b b falls to 2/3, c d e is left at 1: one factor for 6 words.
    # Backwards: 5/6 is left: (1/6)/0.28 of a factor for 6 words.
    assert mtld(["a", "b", "b", "c", "d", "e"]) == pytest.approx((6 + 6 / (1 / 6 / 0.28)) / 2)
    # Forwards a b c a is left at 3/4: 0.25/0.28 of a factor for 4 words; backwards likewise.
    assert mtld(["a", "b", "c", "a"]) == pytest.approx(4 / (0.25 / 0.28))


def test_mtld_does_not_depend_on_length():
    assert mtld(["a", "b", "a", "b", "a"] * 40) == pytest.approx(
        mtld(["a", "b", "a", "b", "a"] * 400), rel=0.05
    )


def test_self_bleu_by_hand():
    # "a b c d" and "a b c x": 3/4 words, 2/3 pairs, 1/2 triples match; no 4-gram: half of 1.
    expected = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert self_bleu([["a", "b", "c", "d"], ["a", "b", "c", "x"]]) == pytest.approx([expected] * 2)
    # A text of two tokens has no triples; it is shorter than the closest other, of four.
    short = self_bleu([["a", "b"], ["a", "b", "c", "d"]])[0]
    assert short == pytest.approx(100 * math.exp(1 - 4 / 2))
    assert self_bleu([["a"]]) == self_bleu([[]]) == [0.0]


@given(st.lists(few_words, min_size=2, max_size=6))
def test_self_bleu_is_sacrebleus_with_all_others_as_references(texts):
    bleu = sacrebleu.BLEU(tokenize="none", effective_order=True)
    lines = [" ".join(tokens) for tokens in texts]
    theirs = [
        bleu.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)
    ]
    assert self_bleu(texts) == pytest.approx(theirs)


def test_exact_match():
    assert exact_match("42\n", ["41", " 42"]) == 1
    assert exact_match("", [" "]) == 1
    assert exact_match("42.", ["42"]) == exact_match("Yes", ["yes"]) == 0


def test_bleu_chrf_and_ter_by_hand():
    scores = sacrebleu_scores(["a b c d e", "x"], [["a b c d f"], ["x"]])
    # 5/6 words, 3/4 pairs, 2/3 triples, 1/2 4-grams over both; equal lengths: no penalty.
    assert scores["bleu"].value == pytest.approx(100 * (5 / 6 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert scores["bleu"].item_values[1] == pytest.approx(100)
    assert scores["ter"].item_values == pytest.approx(
        [100 / 5, 0]
    )  # one substitution in five words
    assert scores["ter"].value == pytest.approx(100 / 6)
    # chrF of "abcde" and "abcdf": n-grams of n = 1..5 match in 4/5, 3/4, 2/3, 1/2, 0.
    chrf = 100 * (4 / 5 + 3 / 4 + 2 / 3 + 1 / 2 + 0) / 5
    assert scores["chrf"].item_values == pytest.approx([chrf, 100])


@given(st.lists(st.tuples(few_words, few_words, few_words), min_size=1, max_size=5))
def test_bleu_chrf_and_ter_are_sacrebleus(cases):
    texts, first, second = (
        [" ".join(own) for own in column] for column in zip(*cases, strict=True)
    )
    texts, first, second = [*TEXTS, *texts], [o[0] for o in REFERENCES] + first, [None] * 4 + second
    references = [[a] if b is None else [a, b] for a, b in zip(first, second, strict=True)]
    scores = sacrebleu_scores(texts, references)
    for name, corpus, sentence in (
        ("bleu", sacrebleu.corpus_bleu, sacrebleu.sentence_bleu),
        ("chrf", sacrebleu.corpus_chrf, sacrebleu.sentence_chrf),
        ("ter", sacrebleu.corpus_ter, sacrebleu.sentence_ter),
    ):
        theirs = [sentence(t, own).score for t, own in zip(texts, references, strict=True)]
        assert scores[name].item_values == pytest.approx(theirs), name
        assert scores[name].value == pytest.approx(corpus(texts, [first, second]).score), name


def test_ter_is_left_out_of_long_texts():
    short, long = "a " * 60, "a " * 61
    assert "ter" in sacrebleu_scores([short], [[short]])
    assert "ter" not in sacrebleu_scores([long], [["b"]])
    assert "ter" not in sacrebleu_scores(["b"], [["b", long]])


def test_rouge_by_hand_and_of_the_best_reference():
    scores = rouge_scores(["The cat sat.", ""], [["a dog", "The cat lay down."], ["x"]])
    # "the cat" of 3 words and of 4: precision 2/3, recall 2/4; pairs: 1/2, 1/3.
    assert scores["rouge_1"].item_values == pytest.approx([4 / 7, 0])
    assert scores["rouge_2"].item_values == pytest.approx([2 / 5, 0])
    assert scores["rouge_l"].value == pytest.approx(2 / 7)


def test_rouge_l_needs_no_neighbours():
    (value,) = rouge_scores(["a x b y c"], [["a b c"]])["rouge_l"].item_values
    assert value == pytest.approx(2 * (3 / 5) * 1 / (3 / 5 + 1))


@given(st.lists(few_words, min_size=1, max_size=4))
def test_a_text_equals_itself(texts):
    lines = ["start " + " ".join(tokens) for tokens in texts]
    scores = score_texts(lines, [[line] for line in lines])
    for name in ("exact_match", "rouge_1", "rouge_l"):
        assert scores[name].value == 1
    assert scores["ter"].value == 0 and scores["chrf"].value == pytest.approx(100)


def test_every_metric_has_a_finite_value_for_each_text():
    scores = score_texts(TEXTS, REFERENCES)
    for name, score in scores.items():
        assert len(score.item_values) == len(TEXTS), name
        assert all(map(math.isfinite, [*score.item_values, score.value])), name
    assert list(score_texts(["alone"])) == [n for n in score_texts(TEXTS) if n != "self_bleu"]
    assert ngrams([], 1) == []


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(DataError, match="no text"):
        score_texts([])
    with pytest.raises(DataError, match="Text 2 has no reference"):
        score_texts(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="Text 2 has no reference"):
        score_texts(["a", "b"], [["a"]])
    real = builtins.__import__

    def without_extra(name, *args, **kwargs):
        if name.partition(".")[0] in ("sacrebleu", "rouge_score"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_extra)
    assert score_texts(["a", "b"])["self_bleu"].value == 0
    with pytest.raises(UsageError, match=r'need sacrebleu; `pip install "kgpt\[eval\]"`'):
        sacrebleu_scores(["a"], [["a"]])
    with pytest.raises(UsageError, match="needs rouge-score"):
        rouge_scores(["a"], [["a"]])


def test_what_is_copied_from_a_data_set_is_counted(tmp_path):
    (tmp_path / "seen.txt").write_text("the cat sat on the mat, and there it stayed all day")
    folder = tmp_path / "set"
    prepare(Corpus([str(tmp_path / "seen.txt")]), Tokenizer.of_bytes(), folder, val_fraction=0.0)
    texts = ["zz the cat sat on", "QQQQ", "stayed", ""]
    found = copying_statistics(texts, folder, 8)
    copied, longest = found["copied"], found["longest_copy"]
    assert copied.item_values[:3].tolist() == pytest.approx([14 / 17, 0, 0])  # "the cat sat on"
    assert copied.value == pytest.approx(14 / (17 + 4 + 6))
    assert longest.item_values.tolist() == [14, 0, 6, 0]
    assert copying_statistics(texts, folder, 6)["copied"].value == pytest.approx(20 / 27)
