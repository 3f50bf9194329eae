"""Byte-pair merges as TensorFlow operations: many words at once, each in its own order.

The rule is the usual one: of all pairs of neighbours in a word, merge the one learned first, and
of equal ones the leftmost; repeat. One turn of the loop merges, in every word, all places of the
pair that is due. That is the same, except where a merge makes a pair that was learned earlier than
the merge itself: such merges are known beforehand and done one place a turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

NEVER = np.iinfo(np.int32).max  # the rank of a pair that is not merged


class Merger(tf.Module):
    """Merges the tokens of words.

    Args:
        merges: pairs of token names, first learned first.
        ids: the id of each token's name.
    """

    def __init__(self, merges: Sequence[tuple[str, str]], ids: Mapping[str, int]):
        super().__init__()
        left, right, product = (
            np.array([ids[name] for name in names], dtype="int64").reshape(-1)
            for names in (
                [a for a, _ in merges], [b for _, b in merges], [a + b for a, b in merges],
            )
        )  # fmt: skip
        self.base = max(ids.values()) + 1
        self.active = len(merges) > 0
        keys, first = np.unique((left * self.base + right)[::-1], return_index=True)
        ranks = len(merges) - 1 - first  # of a pair listed twice, the last place counts
        self.keys = tf.Variable(keys, trainable=False)
        self.ranks = tf.Variable(ranks.astype("int32"), trainable=False)
        self.product = tf.Variable(product.astype("int32"), trainable=False)
        self.hasty = tf.Variable(_earlier_products(left, right, product), trainable=False)

    def __call__(self, tokens: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What is left of `tokens` (M,) int32, and their words.

        Args:
            words: (M,) int32, the word each token is in: 0, 0, 0, 1, 1, 2, ...
        """
        if not self.active:
            return tokens, words
        ranks = self._ranks_of(tokens, words, tf.range(tf.size(tokens)))
        flat = tf.TensorShape([None])
        tokens, words, _ = tf.while_loop(
            lambda tokens, words, ranks: tf.reduce_any(ranks != NEVER),
            self._turn,
            (tokens, words, ranks),
            shape_invariants=(flat, flat, flat),
        )
        return tokens, words

    def _turn(self, tokens, words, ranks):
        """Merge, in each word, the pair that is due."""
        place = tf.range(tf.size(tokens))
        due = (ranks == tf.gather(tf.math.segment_min(ranks, words), words)) & (ranks != NEVER)
        due = due & (_place_in_run(due, place) % 2 == 0)  # of "aaa", only the first two
        rank = tf.where(due, ranks, tf.zeros_like(ranks))
        leftmost = tf.math.segment_min(tf.where(due, place, NEVER), words)
        due = due & (~tf.gather(self.hasty, rank) | (place == tf.gather(leftmost, words)))
        tokens = tf.where(due, tf.gather(self.product, rank), tokens)
        gone = tf.concat([[False], due[:-1]], 0)
        # The merged tokens, and those before them, have new right neighbours.
        changed = due | tf.concat([due[1:], [False]], 0) | tf.concat([due[2:], [False, False]], 0)
        stays = tf.where(~gone)[:, 0]
        tokens, words, ranks, changed = (
            tf.gather(values, stays) for values in (tokens, words, ranks, changed)
        )
        where = tf.where(changed)
        fresh = self._ranks_of(tokens, words, tf.cast(where[:, 0], tf.int32))
        return tokens, words, tf.tensor_scatter_nd_update(ranks, where, fresh)

    def _ranks_of(self, tokens, words, places):
        """The rank of the pair that begins at each of `places`."""
        following = tf.minimum(places + 1, tf.size(tokens) - 1)
        left, right = (tf.cast(tf.gather(tokens, at), tf.int64) for at in (places, following))
        key = left * self.base + right
        found = tf.minimum(tf.searchsorted(self.keys, key), tf.size(self.keys) - 1)
        together = tf.gather(words, places) == tf.gather(words, following)
        known = (tf.gather(self.keys, found) == key) & together & (places != following)
        return tf.where(known, tf.gather(self.ranks, found), NEVER)


def _place_in_run(member, place):
    """How many members come directly before each member."""
    begins = member & ~tf.concat([[False], member[:-1]], 0)
    starts = tf.concat([[0], tf.boolean_mask(place, begins)], 0)
    return place - tf.gather(starts, tf.cumsum(tf.cast(begins, tf.int32)))


def _earlier_products(left, right, product) -> np.ndarray:
    """For each merge, may its product be part of a pair that was learned before it?"""
    order = np.arange(len(product))
    earliest = np.full(
        int(max(left.max(), right.max(), product.max())) + 1 if len(order) else 1, NEVER
    )
    for parts in (left, right):
        np.minimum.at(earliest, parts, order)
    return earliest[product] < order
