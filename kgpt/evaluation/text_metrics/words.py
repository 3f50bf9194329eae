"""Words and n-grams of a text, which the metrics count."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

Ngram = tuple[str, ...]


@cache
def _basic_tokenizer() -> tuple[Any, Any]:
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
    return normalizer, pre_tokenizers.BertPreTokenizer()


def tokens_of(text: str) -> list[str]:
    """Words and punctuation marks by BERT's basic tokenizer: lower case, accents kept.

    Each Chinese character is a word, so that a text without spaces has words too.

    >>> tokens_of("It rains, it pours. 雨")
    ['it', 'rains', ',', 'it', 'pours', '.', '雨']
    """
    normalizer, pre_tokenizer = _basic_tokenizer()
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]


def words_of(text: str) -> list[str]:
    """The tokens that hold a letter or a digit.

    >>> words_of("It rains, it pours.")
    ['it', 'rains', 'it', 'pours']
    """
    return [token for token in tokens_of(text) if any(map(str.isalnum, token))]


def ngrams(tokens: Sequence[str], n: int) -> list[Ngram]:
    """Every run of `n` tokens, in order: `len(tokens) - n + 1` of them, none if there are fewer.

    >>> ngrams(["a", "b", "c"], 2)
    [('a', 'b'), ('b', 'c')]
    """
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))
