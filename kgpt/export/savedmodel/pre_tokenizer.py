"""Where words begin: the split patterns of byte-level BPE as TensorFlow operations.

A regular expression finds the words of GPT-2, Llama 3 and Qwen2 one after another. Their boundaries
are local, though: whether a word begins at a character follows from the kinds of the few characters
around it, and from the run of white space or digits it lies in. So all boundaries of all texts are
found at once. Which character is of which kind is asked of the `tokenizers` library when the tables
are made, so that both know the same Unicode.
"""

from __future__ import annotations

import functools

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

POINTS = 0x110000  # Unicode code points
OTHER, LETTER, NUMBER, SPACE, NEWLINE, NOTHING = range(6)
SINGLE, PAIRED = "stmd", ("re", "ve", "ll")  # what may follow the apostrophe of a contraction
BLANK, APOSTROPHE = ord(" "), ord("'")


class Splitter(tf.Module):
    """Marks the first character of each word.

    Args:
        style: "gpt2", "llama3" or "qwen2": which pattern.
        digits: are digits cut out first, one by one, as SmolLM2 does?
    """

    def __init__(self, style: str, digits: bool = False):
        super().__init__()
        self.style = style
        self.kinds = _constant(kinds_of_points(newlines=style != "gpt2"))
        self.folded = _constant(contraction_letters(ignore_case=style != "gpt2"))
        self.digits = _constant(digits_cut_out()) if digits else None

    def __call__(self, points: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """(C,) booleans: does a word begin here?

        Args:
            points: (C,) int32 code points of all texts, one after another.
            first: (C,) booleans: does a text begin here?
        """
        if self.digits is not None:
            digit = tf.gather(self.digits, points)
            first = first | digit | _before(digit, False)
        kind = tf.gather(self.kinds, points)
        last = _after(first, True)
        inside, done = self._contractions(points, kind, first, last)
        if self.style == "gpt2":
            joined = _joined_gpt2(points, kind, last)
        else:
            joined = _joined_llama(points, kind, first, last, 3 if self.style == "llama3" else 1)
        return first | done | ~(joined | inside)

    def _contractions(self, points, kind, first, last):
        """Is a character inside of 's, 't, 're, 've, 'm, 'll, 'd after its apostrophe; or behind?

        An apostrophe begins a contraction where a word begins: not after other punctuation, nor
        after a blank, which takes it along.
        """
        letter = tf.gather(self.folded, points)
        second = tf.where(last, tf.zeros_like(letter), _after(letter, 0))
        third = tf.where(last | _after(last, True), tf.zeros_like(letter), _after(second, 0))
        taken = ((_before(kind, OTHER) == OTHER) | (_before(points, 0) == BLANK)) & ~first
        begins = (points == APOSTROPHE) & ~taken
        one = begins & tf.reduce_any(second[:, None] == _codes(SINGLE), axis=1)
        pairs = [(second == ord(a)) & (third == ord(b)) for a, b in PAIRED]
        two = begins & (pairs[0] | pairs[1] | pairs[2])
        inside = _before(one | two, False) | _before(two, False, 2)
        return inside, _before(one, False, 2) | _before(two, False, 3)


def _joined_gpt2(points, kind, last):
    """Does a character continue the word before it?

    ' ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+': a run of one kind, and the blank
    before it; of white space before a word, the last character is a word or part of that word.
    """
    space = kind == SPACE
    alike = _before(kind, OTHER) == kind
    leaves_one = ~last & ~_after(space, False)
    blank = _before(points, 0) == BLANK
    return tf.where(space, alike & ~leaves_one, alike | blank)


def _joined_llama(points, kind, first, last, group):
    """Does a character continue the word before it?

    '[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*
    |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'

    Args:
        group: how many digits make a word.
    """
    before = tf.where(
        first, tf.fill(tf.shape(kind), tf.constant(NOTHING, kind.dtype)), _before(kind, 0)
    )
    blank = (_before(points, 0) == BLANK) & ~first
    opens = (kind == OTHER) & (before != OTHER) & ~blank  # punctuation that begins a word
    letters = (before == LETTER) | (before == SPACE) | _before(opens, False)
    others = (before == OTHER) | blank
    run = (kind == NUMBER) & (before == NUMBER)
    numbers = run & (_place_in_run(kind == NUMBER, run) % group != 0)
    white = _joined_white(kind, before, last)
    result = tf.where(kind == LETTER, letters, white)
    return tf.where(kind == OTHER, others, tf.where(kind == NUMBER, numbers, result))


def _joined_white(kind, before, last):
    """White space: line breaks after punctuation belong to it; the rest up to the last line break
    is one word; of what then follows, the last character is left to the next word."""
    newline = kind == NEWLINE
    white = newline | (kind == SPACE)
    white_before = (before == SPACE) | (before == NEWLINE)
    # Runs of line breaks, numbered; each knows whether it follows punctuation.
    continues = newline & (before == NEWLINE)
    run = tf.cumsum(tf.cast(newline & ~continues, tf.int32))
    follows = tf.boolean_mask(before == OTHER, newline & ~continues)
    absorbed = newline & tf.gather(tf.concat([[False], follows], 0), run)
    # Runs of white space: is there a line break at or after this place?
    ids = tf.cumsum(tf.cast(~(white & white_before), tf.int32)) - 1
    breaks = tf.cumsum(tf.cast(newline, tf.int32))
    tail = ~newline & (breaks == tf.gather(tf.math.segment_max(breaks, ids), ids))
    leaves_one = tail & ~last & ~_after(white, False)
    begins = ~white_before | _before(absorbed, False) | (tail & (before == NEWLINE)) | leaves_one
    return absorbed | ~begins


def _place_in_run(member, continues):
    """(C,) int32: how many members of its run come before each member."""
    place = tf.range(tf.size(member))
    begins = member & ~continues
    starts = tf.concat([[0], tf.boolean_mask(place, begins)], 0)
    return place - tf.gather(starts, tf.cumsum(tf.cast(begins, tf.int32)))


def _before(values, fill, count=1):
    """What stands `count` places before each place."""
    return tf.concat([tf.fill([count], tf.cast(fill, values.dtype)), values], 0)[: tf.size(values)]


def _after(values, fill):
    """What stands one place after each place."""
    return tf.concat([values, [tf.cast(fill, values.dtype)]], 0)[1:]


def _codes(letters):
    return tf.constant([ord(letter) for letter in letters], tf.uint8)


def _constant(values: np.ndarray) -> tf.Variable:
    """A table as a variable: stored once, whatever number of signatures use it."""
    return tf.Variable(values, trainable=False)


# -- tables, from the library that is to be equalled -----------------------------------------


def kinds_of_points(newlines: bool) -> np.ndarray:
    """(POINTS,) uint8: OTHER, LETTER, NUMBER or SPACE; with `newlines` also NEWLINE."""
    kinds = np.full(POINTS, OTHER, dtype="uint8")
    for kind, pattern in ((LETTER, r"\p{L}"), (NUMBER, r"\p{N}"), (SPACE, r"\s")):
        kinds[points_matching(pattern)] = kind
    if newlines:
        kinds[[ord("\r"), ord("\n")]] = NEWLINE
    return kinds


def contraction_letters(ignore_case: bool) -> np.ndarray:
    """(POINTS,) uint8: the ASCII letter of a contraction that a character counts as; 0 for none."""
    letters = np.zeros(POINTS, dtype="uint8")
    alphabet = sorted({*SINGLE, *"".join(PAIRED)})
    case = "(?i:" if ignore_case else "(?:"
    candidates = np.flatnonzero(points_matching(f"{case}[{''.join(alphabet)}])"))
    for letter in alphabet:
        letters[_matching(f"{case}{letter})", candidates)] = ord(letter)
    return letters


@functools.cache
def points_matching(pattern: str) -> np.ndarray:
    """(POINTS,) booleans: which characters match a pattern?"""
    matching = np.zeros(POINTS, dtype=bool)
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
def digits_cut_out() -> np.ndarray:
    """(POINTS,) booleans: which characters does the library's `Digits` cut out of a text?"""
    points = _characters()
    text = "".join(f"a{chr(point)}" for point in points)
    starts = np.zeros(len(text), dtype=bool)
    for _, (begin, _) in pre_tokenizers.Digits(True).pre_tokenize_str(text):
        starts[begin] = True
    cut = np.zeros(POINTS, dtype=bool)
    cut[points] = starts[1::2]
    return cut


def _characters() -> np.ndarray:
    """Every code point that is a character: surrogates are none."""
    return np.concatenate([np.arange(0xD800), np.arange(0xE000, POINTS)])
