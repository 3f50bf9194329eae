"""A tokenizer as a graph of core TensorFlow operations: nothing else is needed to load it.

It gives the ids and the text that `kgpt.text.tokenizer.Tokenizer` gives, for the byte-level BPE of
GPT-2, SmolLM2, Llama 3 and Qwen2's pattern, and for kgpt's own character and byte vocabularies. A
tokenizer with rules beyond these is refused with the reason, never approximated. Special tokens in
a text are plain text; bytes that are no UTF-8 are read as U+FFFD, as Python does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kgpt.errors import KgptError
from kgpt.export.savedmodel.bpe_merge import Merger
from kgpt.export.savedmodel.pre_tokenizer import Splitter
from kgpt.text.tokenizer import Tokenizer, byte_alphabet

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {  # as tokenizer.json has them
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{AFTER_DIGITS}": "llama3",
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{AFTER_DIGITS}": "qwen2",
    r"[\s\S]": "characters",
}


class Inexpressible(KgptError):
    """A tokenizer with a rule that the graph cannot follow exactly."""


@dataclass
class Rules:
    """How a tokenizer splits: a style, and whether digits are cut out first."""

    style: str
    digits: bool = False


class GraphTokenizer(tf.Module):
    """Encodes and decodes in the graph.

    Args:
        tokenizer: the tokenizer to equal.

    Raises:
        Inexpressible: the tokenizer has other rules; the message says which.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        values = json.loads(tokenizer.to_json())
        rules = rules_of(values)
        ids = values["model"]["vocab"]
        merges = [
            tuple(m.split(" ") if isinstance(m, str) else m) for m in values["model"]["merges"]
        ]
        names = _byte_names(rules.style)
        self.byte_ids = _table(_byte_ids(names, ids), "int32")
        self.every_character = rules.style == "characters"
        self.splitter = Splitter(rules.style, rules.digits) if merges else None
        self.whole = None
        if self.every_character or values["model"].get("ignore_merges"):
            self.whole = WholeWords(_words(names, ids, rules.style))
        self.merger = Merger(merges, ids)
        size = tokenizer.vocab_size
        special = tokenizer.special_by_id
        self.pieces = _table([tokenizer.token_bytes(i) or b"" for i in range(size)], object)
        self.names = _table([special.get(i, "").encode() for i in range(size)], object)
        self.special = _table([i in special for i in range(size)], bool)

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids of texts (B,): ragged (B, None) int32."""
        characters = tf.strings.unicode_decode(texts, "UTF-8", errors="replace")
        points, rows = characters.values, tf.cast(characters.value_rowids(), tf.int32)
        place = tf.range(tf.size(points))
        first = (place == 0) | (rows != tf.gather(rows, tf.maximum(place - 1, 0)))
        begins = tf.where(self._begins(points, first))[:, 0]
        ends = tf.concat([begins, [tf.size(points, tf.int64)]], 0)
        words = tf.raw_ops.UnicodeEncode(
            input_values=points, input_splits=ends, output_encoding="UTF-8", errors="strict"
        )
        distinct, which = tf.unique(words)
        tokens = tf.gather(self._tokens_of(distinct), which)
        count = tf.math.unsorted_segment_sum(
            tokens.row_lengths(), tf.gather(rows, begins), tf.size(texts)
        )
        return tf.RaggedTensor.from_row_lengths(tokens.values, count, validate=False)

    def _begins(self, points, first):
        if self.every_character:
            return tf.ones_like(first)
        return first if self.splitter is None else self.splitter(points, first)

    def _tokens_of(self, words):
        """Ids of each word (W,): ragged (W, None) int32."""
        letters = tf.strings.unicode_decode(words, "ISO-8859-1")  # the bytes, as code points
        tokens = tf.gather(self.byte_ids, letters.values)
        owners = tf.cast(letters.value_rowids(), tf.int32)
        if self.whole is not None:
            token = self.whole(words)
            place = tf.range(tf.size(owners))
            opens = (place == 0) | (owners != tf.gather(owners, tf.maximum(place - 1, 0)))
            known = tf.gather(token, owners)
            stays = tf.where((known < 0) | opens)[:, 0]
            tokens = tf.gather(tf.where(known < 0, tokens, known), stays)
            owners = tf.gather(owners, stays)
        tokens, owners = self.merger(tokens, owners)
        count = tf.math.unsorted_segment_sum(tf.ones_like(owners, tf.int64), owners, tf.size(words))
        return tf.RaggedTensor.from_row_lengths(tokens, count, validate=False)

    def decode(self, ids: tf.RaggedTensor, skip_special=True) -> tf.Tensor:
        """Texts (B,) of ragged ids (B, None) int32; ids that are no token are left out.

        A special token ends the character before it, finished or not, also where it is skipped.
        """
        flat, rows = ids.values, ids.value_rowids()
        valid = tf.where((flat >= 0) & (flat < tf.size(self.pieces)))[:, 0]
        flat, rows = tf.gather(flat, valid), tf.gather(rows, valid)
        special = tf.gather(self.special, flat)
        names = tf.where(skip_special, tf.constant(b""), tf.gather(self.names, flat))
        pieces = tf.where(special, names, tf.gather(self.pieces, flat))
        before = tf.concat([[True], special[:-1]], 0)[: tf.size(flat)]
        starts = special | before | tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(flat)]
        part = tf.cumsum(tf.cast(starts, tf.int64)) - 1
        owner = tf.boolean_mask(rows, starts)
        parts = tf.strings.unsorted_segment_join(pieces, part, tf.size(owner))
        parts = tf.strings.unicode_transcode(parts, "UTF-8", "UTF-8", errors="replace")
        return tf.strings.unsorted_segment_join(parts, owner, ids.nrows())


class WholeWords(tf.Module):
    """Finds words that are tokens as they stand: by their 63-bit hash, then by themselves."""

    def __init__(self, ids: dict[bytes, int]):
        super().__init__()
        words = np.array(list(ids), dtype=object)
        hashes = _hash(tf.constant(words)).numpy()
        order = np.argsort(hashes)
        if len(np.unique(hashes)) < len(hashes):
            raise Inexpressible("two of its tokens have the same hash")
        self.hashes = _table(hashes[order], "int64")
        self.words = _table(words[order], object)
        self.tokens = _table(np.array(list(ids.values()))[order], "int32")

    def __call__(self, words):
        """The token of each word (W,) int32; -1 for a word that is none."""
        key = _hash(words)
        found = tf.minimum(tf.searchsorted(self.hashes, key), tf.size(self.hashes) - 1)
        return tf.where(tf.gather(self.words, found) == words, tf.gather(self.tokens, found), -1)


def rules_of(values: dict[str, Any]) -> Rules:
    """The rules of a tokenizer.json, if the graph can follow them."""
    model = values["model"]
    if model.get("type", "BPE") != "BPE":
        raise Inexpressible(f"its model is {model['type']}, not BPE")
    if any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        raise Inexpressible("its BPE has dropout, a prefix or a suffix")
    normalizer = values.get("normalizer")
    if normalizer and normalizer.get("normalizers") != []:
        raise Inexpressible(f"it normalises text ({normalizer['type']})")
    plain = [token["content"] for token in values["added_tokens"] if not token["special"]]
    if plain:
        raise Inexpressible(f"it cuts {plain[0]!r} out of every text")
    rules = _split_rules(values.get("pre_tokenizer") or {"type": "none"})
    if rules.style == "characters" and model["merges"]:
        raise Inexpressible("it merges characters")
    return rules


def _split_rules(pre_tokenizer: dict[str, Any]) -> Rules:
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [step["type"] for step in steps]
    last = steps[-1]
    if kinds == ["Split"] and PATTERNS.get(_pattern(last)) == "characters":
        return Rules("characters")
    if kinds[-1] != "ByteLevel" or last["add_prefix_space"]:
        raise Inexpressible(f"it splits text in a way of its own ({', '.join(kinds)})")
    if kinds == ["ByteLevel"] and last["use_regex"]:
        return Rules("gpt2")
    if kinds == ["Digits", "ByteLevel"] and last["use_regex"] and steps[0]["individual_digits"]:
        return Rules("gpt2", digits=True)
    style = PATTERNS.get(_pattern(steps[0]))
    if kinds == ["Split", "ByteLevel"] and not last["use_regex"] and style in ("llama3", "qwen2"):
        return Rules(style)
    raise Inexpressible(f"it splits text in a way of its own ({', '.join(kinds)})")


def _pattern(step: dict[str, Any]) -> str:
    """The pattern of a `Split` that keeps what matches; empty for any other step."""
    if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"]:
        return ""
    return step["pattern"].get("Regex", "")


def _byte_names(style: str) -> list[str]:
    """What a vocabulary calls each of the 256 bytes."""
    if style == "characters":
        return [f"<0x{byte:02X}>" for byte in range(256)]
    alphabet = byte_alphabet()
    return [alphabet[byte] for byte in range(256)]


def _byte_ids(names: list[str], ids: dict[str, int]) -> list[int]:
    missing = [byte for byte, name in enumerate(names) if name not in ids]
    if missing:
        raise Inexpressible(f"its vocabulary lacks the byte {missing[0]}")
    return [ids[name] for name in names]


def _words(names: list[str], ids: dict[str, int], style: str) -> dict[bytes, int]:
    """The bytes of every name in the vocabulary."""
    if style == "characters":
        return {name.encode(): i for name, i in ids.items() if len(name) == 1}
    byte_of = {name: byte for byte, name in enumerate(names)}
    known = {name: i for name, i in ids.items() if byte_of.keys() >= set(name)}
    return {bytes(byte_of[letter] for letter in name): i for name, i in known.items()}


def _hash(words):
    return tf.strings.to_hash_bucket_fast(words, 2**63 - 1)


def _table(values, dtype) -> tf.Variable:
    """A table as a variable: stored once, whatever number of signatures use it."""
    return tf.Variable(np.array(values, dtype=dtype), trainable=False)
