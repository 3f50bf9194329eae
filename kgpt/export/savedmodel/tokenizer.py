"""A tokenizer as core TensorFlow operations, so that loading it needs nothing but TensorFlow.

It returns the ids and text of `kgpt.text.tokenizer.Tokenizer` for the byte-level BPE of GPT-2,
SmolLM2, Llama 3 and Qwen2, and for kgpt's character and byte vocabularies. A tokenizer with other
rules is refused with the reason, never approximated. Special tokens in a text are encoded as plain
text; invalid UTF-8 is decoded as U+FFFD, as in Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kgpt.errors import KgptError
from kgpt.export.savedmodel.bpe_merge import BPEMerger
from kgpt.export.savedmodel.pre_tokenizer import PreTokenizer
from kgpt.text.token_bytes import byte_alphabet
from kgpt.text.tokenizer import Tokenizer

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {  # as tokenizer.json has them
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{AFTER_DIGITS}": "llama3",
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{AFTER_DIGITS}": "qwen2",
    r"[\s\S]": "characters",
}


class UnsupportedTokenizer(KgptError):
    """A tokenizer with a rule that the graph cannot reproduce exactly."""


@dataclass
class Rules:
    """How a tokenizer splits text: a pattern, and whether digits are split off first."""

    style: str
    digits: bool = False


class GraphTokenizer(tf.Module):
    """Encodes and decodes in the graph, exactly as `tokenizer` does.

    Raises `UnsupportedTokenizer` if it has rules that the graph cannot reproduce.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        values = json.loads(tokenizer.to_json())
        rules = parse_rules(values)
        ids = values["model"]["vocab"]
        merges = [m.split(" ") if isinstance(m, str) else m for m in values["model"]["merges"]]
        names = _byte_names(rules.style)
        self.byte_ids = _table(_byte_ids(names, ids), "int32")
        self.is_character_level = rules.style == "characters"
        self.pre_tokenizer = PreTokenizer(rules.style, rules.digits) if merges else None
        self.whole_words: WholeWords | None = None
        if self.is_character_level or values["model"].get("ignore_merges"):
            self.whole_words = WholeWords(_words(names, ids, rules.style))
        self.merger = BPEMerger([(a, b) for a, b in merges], ids)
        size = tokenizer.vocab_size
        special = tokenizer.special_by_id
        self.token_bytes = _table([tokenizer.token_bytes(i) or b"" for i in range(size)], object)
        self.special_names = _table([special.get(i, "").encode() for i in range(size)], object)
        self.is_special = _table([i in special for i in range(size)], bool)

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids of texts (B,): ragged (B, None) int32."""
        characters = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        points, rows = characters.values, tf.cast(characters.value_rowids(), tf.int32)
        index = tf.range(tf.size(points))
        first = (index == 0) | (rows != tf.gather(rows, tf.maximum(index - 1, 0)))
        begins = tf.where(self._word_starts(points, first))[:, 0]
        ends = tf.concat([begins, [tf.size(points, tf.int64)]], 0)
        words = tf.raw_ops.UnicodeEncode(
            input_values=points, input_splits=ends, output_encoding="UTF-8", errors="strict"
        )
        distinct, index = tf.unique(words)
        tokens = tf.gather(self._encode_words(distinct), index)
        count = tf.math.unsorted_segment_sum(
            tokens.row_lengths(), tf.gather(rows, begins), tf.size(texts)
        )
        return tf.RaggedTensor.from_row_lengths(tokens.values, count, validate=False)

    def _word_starts(self, points: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """(C,) bool: does a word begin at this character? `first`: does a text?"""
        if self.is_character_level:
            return tf.ones_like(first)
        return first if self.pre_tokenizer is None else self.pre_tokenizer(points, first)

    def _encode_words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Ids of words (W,): ragged (W, None) int32."""
        letters = tf.strings.unicode_decode(words, "ISO-8859-1")  # the bytes, as code points
        tokens = tf.gather(self.byte_ids, letters.values)
        owners = tf.cast(letters.value_rowids(), tf.int32)
        if self.whole_words is not None:
            token = self.whole_words(words)
            index = tf.range(tf.size(owners))
            first = (index == 0) | (owners != tf.gather(owners, tf.maximum(index - 1, 0)))
            known = tf.gather(token, owners)
            kept = tf.where((known < 0) | first)[:, 0]
            tokens = tf.gather(tf.where(known < 0, tokens, known), kept)
            owners = tf.gather(owners, kept)
        tokens, owners = self.merger(tokens, owners)
        count = tf.math.unsorted_segment_sum(tf.ones_like(owners, tf.int64), owners, tf.size(words))
        return tf.RaggedTensor.from_row_lengths(tokens, count, validate=False)

    def decode(
        self, ids: tf.RaggedTensor, skip_special_tokens: bool | tf.Tensor = True
    ) -> tf.Tensor:
        """Texts (B,) of ragged ids (B, None) int32; ids outside the vocabulary are left out.

        A special token, skipped or not, ends an incomplete UTF-8 sequence before it.
        """
        flat, rows = ids.values, ids.value_rowids()
        valid = tf.where((flat >= 0) & (flat < tf.size(self.token_bytes)))[:, 0]
        flat, rows = tf.gather(flat, valid), tf.gather(rows, valid)
        special = tf.gather(self.is_special, flat)
        names = tf.where(skip_special_tokens, tf.constant(b""), tf.gather(self.special_names, flat))
        pieces = tf.where(special, names, tf.gather(self.token_bytes, flat))
        before = tf.concat([[True], special[:-1]], 0)[: tf.size(flat)]
        starts = special | before | tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(flat)]
        part = tf.cumsum(tf.cast(starts, tf.int64)) - 1
        owner = tf.boolean_mask(rows, starts)
        parts = tf.strings.unsorted_segment_join(pieces, part, tf.size(owner))
        parts = tf.strings.unicode_transcode(parts, "UTF-8", "UTF-8", errors="replace")
        return tf.strings.unsorted_segment_join(parts, owner, ids.nrows())


class WholeWords(tf.Module):
    """Looks up words that are tokens: by 63-bit hash, then compared."""

    def __init__(self, ids: dict[bytes, int]):
        super().__init__()
        words = np.array(list(ids), dtype=object)
        hashes = _hash(tf.constant(words)).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise UnsupportedTokenizer("two of its tokens have the same hash")
        self.hashes = _table(hashes[order], "int64")
        self.words = _table(words[order], object)
        self.tokens = _table(np.array(list(ids.values()))[order], "int32")

    def __call__(self, words: tf.Tensor) -> tf.Tensor:
        """The token id of each word (W,) int32; -1 for a word that is not a token."""
        key = _hash(words)
        found = tf.minimum(tf.searchsorted(self.hashes, key), tf.size(self.hashes) - 1)
        return tf.where(tf.gather(self.words, found) == words, tf.gather(self.tokens, found), -1)


def parse_rules(values: dict[str, Any]) -> Rules:
    """The split rules of a tokenizer.json; `UnsupportedTokenizer` if the graph has no such."""
    model = values["model"]
    if model.get("type", "BPE") != "BPE":
        raise UnsupportedTokenizer(f"its model is {model['type']}, not BPE")
    if any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise UnsupportedTokenizer("its BPE has dropout, a prefix or a suffix")
    normalizer = values.get("normalizer")
    if normalizer and normalizer.get("normalizers") != []:
        raise UnsupportedTokenizer(f"it normalises text ({normalizer['type']})")
    plain = [token["content"] for token in values["added_tokens"] if not token["special"]]
    if plain:
        raise UnsupportedTokenizer(f"it splits {plain[0]!r} out of every text")
    rules = _split_rules(values.get("pre_tokenizer") or {"type": "none"})
    if rules.style == "characters" and model["merges"]:
        raise UnsupportedTokenizer("it merges characters")
    return rules


def _split_rules(pre_tokenizer: dict[str, Any]) -> Rules:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step["type"] for step in steps]
    last = steps[-1]
    if kinds == ["Split"] and PATTERNS.get(_pattern(last)) == "characters":
        return Rules("characters")
    if kinds[-1] != "ByteLevel" or last["add_prefix_space"]:
        raise UnsupportedTokenizer(f"its pre-tokenizer is not supported ({', '.join(kinds)})")
    if kinds == ["ByteLevel"] and last["use_regex"]:
        return Rules("gpt2")
    if kinds == ["Digits", "ByteLevel"] and last["use_regex"] and steps[0]["individual_digits"]:
        return Rules("gpt2", digits=True)
    style = PATTERNS.get(_pattern(steps[0]))
    if kinds == ["Split", "ByteLevel"] and not last["use_regex"] and style in ("llama3", "qwen2"):
        return Rules(style)
    raise UnsupportedTokenizer(f"its pre-tokenizer is not supported ({', '.join(kinds)})")


def _pattern(step: dict[str, Any]) -> str:
    """The pattern of a `Split` that keeps what matches; empty for any other step."""
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return ""
    return str(step["pattern"].get("Regex", ""))


def _byte_names(style: str) -> list[str]:
    """The names of the 256 bytes in a vocabulary."""
    if style == "characters":
        return [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = byte_alphabet()
    return [alphabet[byte] for byte in range(256)]


def _byte_ids(names: list[str], ids: dict[str, int]) -> list[int]:
    missing = [byte for byte, name in enumerate(names) if name not in ids]
    if missing:
        raise UnsupportedTokenizer(f"its vocabulary lacks the byte {missing[0]}")
    return [ids[name] for name in names]


def _words(names: list[str], ids: dict[str, int], style: str) -> dict[bytes, int]:
    """The token id of each word in the vocabulary, by its bytes."""
    if style == "characters":
        return {name.encode(): i for name, i in ids.items() if len(name) == 1}
    byte_of = {name: byte for byte, name in enumerate(names)}
    known = {name: i for name, i in ids.items() if byte_of.keys() >= set(name)}
    return {bytes(byte_of[letter] for letter in name): i for name, i in known.items()}


def _hash(words: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(words, 2**63 - 1)


def _table(values: Any, dtype: Any) -> tf.Variable:
    """A table as a variable, which all signatures share; constants are stored once in each."""
    return tf.Variable(np.array(values, dtype=dtype), trainable=False)
