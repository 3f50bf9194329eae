"""The split patterns of byte-level BPE as TensorFlow operations.

GPT-2, Llama 3 and Qwen2 split text into words with a regular expression. Its boundaries are local:
whether a word begins at a character depends on the classes of the few characters around it, and on
its position in a run of white space or digits. So all boundaries of all texts are found at once.
The character classes come from the `tokenizers` library, so that both use the same Unicode tables.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

NUM_CODE_POINTS = 0x110000
OTHER, LETTER, NUMBER, SPACE, NEWLINE, START = range(6)  # character classes; START: of a text
ONE_LETTER, TWO_LETTERS = "stmd", ("re", "ve", "ll")  # contractions, after the apostrophe
BLANK, APOSTROPHE = ord(" "), ord("'")


class PreTokenizer(tf.Module):
    """Marks the first character of each word.

    Args:
        style: the pattern: "gpt2", "llama3" or "qwen2".
        digits: split off every digit first, as SmolLM2 does.
    """

    def __init__(self, style: str, digits: bool = False):
        super().__init__()
        self.style = style
        self.classes = _table(character_classes(newlines=style != "gpt2"))
        self.contraction_letters = _table(contraction_letters(ignore_case=style != "gpt2"))
        self.digits = _table(split_digits()) if digits else None

    def __call__(self, points: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """(C,) bool: does a word begin at this character?

        Args:
            points: (C,) int32 code points of all texts, concatenated.
            first: (C,) bool: does a text begin at this character?
        """
        if self.digits is not None:
            digit = tf.gather(self.digits, points)
            first = first | digit | _before(digit, False)
        kind = tf.gather(self.classes, points)
        last = _after(first, True)
        inside, behind = self._contractions(points, kind, first, last)
        if self.style == "gpt2":
            continues = _continues_gpt2(points, kind, last)
        else:
            max_digits = 3 if self.style == "llama3" else 1
            continues = _continues_llama(points, kind, first, last, max_digits)
        return first | behind | ~(continues | inside)

    def _contractions(
        self, points: tf.Tensor, kind: tf.Tensor, first: tf.Tensor, last: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Which characters are letters of 's, 't, 're, 've, 'm, 'll, 'd, and which come after one.

        An apostrophe begins a contraction where a word begins: not after other punctuation, nor
        after a blank, which belongs to the same word as the apostrophe.
        """
        letter = tf.gather(self.contraction_letters, points)
        second = tf.where(last, tf.zeros_like(letter), _after(letter, 0))
        third = tf.where(last | _after(last, True), tf.zeros_like(letter), _after(second, 0))
        in_word = ((_before(kind, OTHER) == OTHER) | (_before(points, 0) == BLANK)) & ~first
        begins = (points == APOSTROPHE) & ~in_word
        one = begins & tf.reduce_any(second[:, None] == _codes(ONE_LETTER), axis=1)
        pairs = [(second == ord(ab[0])) & (third == ord(ab[1])) for ab in TWO_LETTERS]
        two = begins & (pairs[0] | pairs[1] | pairs[2])
        inside = _before(one | two, False) | _before(two, False, 2)
        return inside, _before(one, False, 2) | _before(two, False, 3)


def _continues_gpt2(points: tf.Tensor, kind: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """(C,) bool: does a character continue the word before it?

    ' ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+': a run of one class, and the blank
    before it; of white space before a word, the last character is a word or part of that word.
    """
    space = kind == SPACE
    same_class = _before(kind, OTHER) == kind
    ends_run = ~last & ~_after(space, False)
    blank = _before(points, 0) == BLANK
    return tf.where(space, same_class & ~ends_run, same_class | blank)


def _continues_llama(
    points: tf.Tensor, kind: tf.Tensor, first: tf.Tensor, last: tf.Tensor, max_digits: int
) -> tf.Tensor:
    """(C,) bool: does a character continue the word before it?

    '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*
    |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

    Args:
        max_digits: digits of a word, at most.
    """
    start = tf.fill(tf.shape(kind), tf.constant(START, kind.dtype))
    before = tf.where(first, start, _before(kind, 0))
    blank = (_before(points, 0) == BLANK) & ~first
    opens = (kind == OTHER) & (before != OTHER) & ~blank  # punctuation that begins a word
    letters = (before == LETTER) | (before == SPACE) | _before(opens, False)
    others = (before == OTHER) | blank
    run = (kind == NUMBER) & (before == NUMBER)
    numbers = run & (_index_in_run(kind == NUMBER, run) % max_digits != 0)
    white = _continues_white(kind, before, last)
    result = tf.where(kind == LETTER, letters, white)
    return tf.where(kind == OTHER, others, tf.where(kind == NUMBER, numbers, result))


def _continues_white(kind: tf.Tensor, before: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """(C,) bool, for white space only: does it continue the word before it?

    Line breaks after punctuation belong to its word; the rest up to the last line break is one
    word; of the white space after that, the last character belongs to the next word.
    """
    newline = kind == NEWLINE
    white = newline | (kind == SPACE)
    white_before = (before == SPACE) | (before == NEWLINE)
    # Runs of line breaks, numbered; `follows`: does each follow punctuation?
    continues = newline & (before == NEWLINE)
    run = tf.cumsum(tf.cast(newline & ~continues, tf.int32))
    follows = tf.boolean_mask(before == OTHER, newline & ~continues)
    absorbed = newline & tf.gather(tf.concat([[False], follows], 0), run)
    # Runs of white space, numbered; `tail`: is there no line break here or later in the run?
    ids = tf.cumsum(tf.cast(~(white & white_before), tf.int32)) - 1
    breaks = tf.cumsum(tf.cast(newline, tf.int32))
    tail = ~newline & (breaks == tf.gather(tf.math.segment_max(breaks, ids), ids))
    ends_run = tail & ~last & ~_after(white, False)
    begins = ~white_before | _before(absorbed, False) | (tail & (before == NEWLINE)) | ends_run
    return absorbed | ~begins


def _index_in_run(member: tf.Tensor, continues: tf.Tensor) -> tf.Tensor:
    """(C,) int32: the number of members before each member in its run."""
    index = tf.range(tf.size(member))
    begins = member & ~continues
    starts = tf.concat([[0], tf.boolean_mask(index, begins)], 0)
    return index - tf.gather(starts, tf.cumsum(tf.cast(begins, tf.int32)))


def _before(values: tf.Tensor, fill: int | bool, count: int = 1) -> tf.Tensor:
    """`values` shifted by `count`: at each index, the value `count` before it."""
    return tf.concat([tf.fill([count], tf.cast(fill, values.dtype)), values], 0)[: tf.size(values)]


def _after(values: tf.Tensor, fill: int | bool) -> tf.Tensor:
    """`values` shifted by -1: at each index, the next value."""
    return tf.concat([values, [tf.cast(fill, values.dtype)]], 0)[1:]


def _codes(letters: str) -> tf.Tensor:
    return tf.constant([ord(letter) for letter in letters], tf.uint8)


def _table(values: np.ndarray) -> tf.Variable:
    """A table as a variable, which all signatures share; constants are stored once in each."""
    return tf.Variable(values, trainable=False)


# -- tables, from the tokenizers library ------------------------------------------------------


def character_classes(newlines: bool) -> np.ndarray:
    """(NUM_CODE_POINTS,) uint8: OTHER, LETTER, NUMBER or SPACE; with `newlines` also NEWLINE."""
    classes = np.full(NUM_CODE_POINTS, OTHER, dtype="uint8")
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        classes[code_points_matching(pattern)] = kind
    if newlines:
        classes[[ord("\r"), ord("\n")]] = NEWLINE
    return classes


def contraction_letters(ignore_case: bool) -> np.ndarray:
    """(NUM_CODE_POINTS,) uint8: the contraction letter that a character matches; 0 for none."""
    letters = np.zeros(NUM_CODE_POINTS, dtype="uint8")
    alphabet = sorted({*ONE_LETTER, *"".join(TWO_LETTERS)})
    case = "(?i:" if ignore_case else "(?:"
    candidates = np.flatnonzero(code_points_matching(f"{case}[{''.join(alphabet)}])"))
    for letter in alphabet:
        letters[_matching(f"{case}{letter})", candidates)] = ord(letter)
    return letters


@functools.cache
def code_points_matching(pattern: str) -> np.ndarray:
    """(NUM_CODE_POINTS,) bool: which characters match a pattern?"""
    matching = np.zeros(NUM_CODE_POINTS, dtype=bool)
    matching[_matching(pattern, _characters())] = True
    return matching


def _matching(pattern: str, points: np.ndarray) -> np.ndarray:
    """Those of `points` that match a pattern."""
    gaps = pre_tokenizers.Split(Regex(f"(?:{pattern})+"), "removed")
    matching = np.ones(len(points), dtype=bool)
    for _, (begin, end) in gaps.pre_tokenize_str("".join(map(chr, points))):
        matching[begin:end] = False
    return points[matching]


@functools.cache
def split_digits() -> np.ndarray:
    """(NUM_CODE_POINTS,) bool: which characters does the library's `Digits` split off?"""
    points = _characters()
    text = "".join(f"a{chr(point)}" for point in points)
    starts = np.zeros(len(text), dtype=bool)
    for _, (begin, _) in pre_tokenizers.Digits(True).pre_tokenize_str(text):
        starts[begin] = True
    digits = np.zeros(NUM_CODE_POINTS, dtype=bool)
    digits[points] = starts[1::2]
    return digits


def _characters() -> np.ndarray:
    """Every code point that is a character: all but the surrogates."""
    return np.concatenate([np.arange(0xD800), np.arange(0xE000, NUM_CODE_POINTS)])
