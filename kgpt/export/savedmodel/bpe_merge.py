"""Byte-pair merges as TensorFlow operations, for many words at once.

BPE repeatedly merges, of all adjacent pairs in a word, the one with the lowest rank (learned
first), leftmost first. One iteration of the loop here merges all occurrences of each word's lowest
pair. That is equivalent, except where a merge creates a pair of a lower rank than its own: such
merges are known beforehand and applied one occurrence an iteration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

NO_RANK = np.iinfo(np.int32).max  # the rank of a pair that is not merged


class BPEMerger(tf.Module):
    """Applies the merges of a BPE tokenizer.

    Args:
        merges: pairs of token names, in the order they were learned.
        ids: the id of each token name.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], ids: Mapping[str, int]):
        super().__init__()
        left, right, product = (
            np.array([ids[name] for name in names], dtype="int64").reshape(-1)
            for names in (
                [a for a, _ in merges], [b for _, b in merges], [a + b for a, b in merges],
            )
        )  # fmt: skip
        self.vocab_size = max(ids.values()) + 1
        self.has_merges = len(merges) > 0
        keys, first = np.unique((left * self.vocab_size + right)[::-1], return_index=True)
        ranks = len(merges) - 1 - first  # the last rank of a pair that is listed twice
        self.keys = tf.Variable(keys, trainable=False)
        self.ranks = tf.Variable(ranks.astype("int32"), trainable=False)
        self.product = tf.Variable(product.astype("int32"), trainable=False)
        sequential = _creates_lower_rank(left, right, product)
        self.sequential = tf.Variable(sequential, trainable=False)

    def __call__(self, tokens: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The merged tokens (M',), and the word of each.

        Args:
            tokens: (M,) int32.
            words: (M,) int32, the word of each token: 0, 0, 0, 1, 1, 2, ...
        """
        if not self.has_merges:
            return tokens, words
        ranks = self._pair_ranks(tokens, words, tf.range(tf.size(tokens)))
        flat = tf.TensorShape([None])
        tokens, words, _ = tf.while_loop(
            lambda tokens, words, ranks: tf.reduce_any(ranks != NO_RANK),
            self._merge_lowest,
            (tokens, words, ranks),
            shape_invariants=(flat, flat, flat),
        )
        return tokens, words

    def _merge_lowest(
        self, tokens: tf.Tensor, words: tf.Tensor, ranks: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Merge the pair of the lowest rank in each word."""
        index = tf.range(tf.size(tokens))
        merge = ranks == tf.gather(tf.math.segment_min(ranks, words), words)
        merge = merge & (ranks != NO_RANK)
        merge = merge & (_index_in_run(merge, index) % 2 == 0)  # of "aaa", only the first two
        rank = tf.where(merge, ranks, tf.zeros_like(ranks))
        leftmost = tf.math.segment_min(tf.where(merge, index, NO_RANK), words)
        first = index == tf.gather(leftmost, words)
        merge = merge & (~tf.gather(self.sequential, rank) | first)
        tokens = tf.where(merge, tf.gather(self.product, rank), tokens)
        removed = tf.concat([[False], merge[:-1]], 0)
        # The merged tokens, and those before them, have new right neighbours.
        changed = merge | tf.concat([merge[1:], [False]], 0)
        changed = changed | tf.concat([merge[2:], [False, False]], 0)
        kept = tf.where(~removed)[:, 0]
        tokens, words, ranks, changed = (
            tf.gather(values, kept) for values in (tokens, words, ranks, changed)
        )
        where = tf.where(changed)
        new_ranks = self._pair_ranks(tokens, words, tf.cast(where[:, 0], tf.int32))
        return tokens, words, tf.tensor_scatter_nd_update(ranks, where, new_ranks)

    def _pair_ranks(self, tokens: tf.Tensor, words: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """The rank of the pair that starts at each `index`."""
        following = tf.minimum(index + 1, tf.size(tokens) - 1)
        left, right = (tf.cast(tf.gather(tokens, at), tf.int64) for at in (index, following))
        key = left * self.vocab_size + right
        found = tf.minimum(tf.searchsorted(self.keys, key), tf.size(self.keys) - 1)
        same_word = tf.gather(words, index) == tf.gather(words, following)
        known = (tf.gather(self.keys, found) == key) & same_word & (index != following)
        return tf.where(known, tf.gather(self.ranks, found), NO_RANK)


def _index_in_run(member: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The number of members directly before each member."""
    begins = member & ~tf.concat([[False], member[:-1]], 0)
    starts = tf.concat([[0], tf.boolean_mask(index, begins)], 0)
    return index - tf.gather(starts, tf.cumsum(tf.cast(begins, tf.int32)))


def _creates_lower_rank(left: np.ndarray, right: np.ndarray, product: np.ndarray) -> np.ndarray:
    """For each merge: can its product be part of a pair of a lower rank?"""
    order = np.arange(len(product))
    size = int(max(left.max(), right.max(), product.max())) + 1 if len(order) else 1
    lowest = np.full(size, NO_RANK)
    for parts in (left, right):
        np.minimum.at(lowest, parts, order)
    is_lower: np.ndarray = lowest[product] < order
    return is_lower
