"""How likely texts are to a model, inside a TensorFlow graph."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def log_likelihood(
    logits: Callable[[tf.Tensor], tf.Tensor], window: int, ids: tf.Tensor, length: tf.Tensor
) -> tf.Tensor:
    """Sum of the log-probabilities (B,) of all tokens but the first.

    A text longer than the model's context is read in windows one after another, each of which
    begins with the last token of the one before.

    Args:
        logits: the model: ids (B, W) to logits (B, W, V). window: the most tokens it reads.
        ids: (B, T) int32, of which `length` (B,) are real.
    """
    ids = tf.pad(ids, [[0, 0], [0, 1]])
    most = tf.reduce_max(length) - 1

    def add(start, total):
        inputs = ids[:, start : tf.minimum(start + window, most)]
        targets = ids[:, start + 1 : tf.minimum(start + window, most) + 1]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits(inputs))  # (B, W)
        place = start + 1 + tf.range(tf.shape(targets)[1])
        real = tf.cast(place[None] < length[:, None], losses.dtype)
        return start + window, total - tf.reduce_sum(losses * real, axis=1)

    zeros = tf.zeros(tf.shape(length), tf.float32)
    shapes = (tf.TensorShape([]), tf.TensorShape([None]))
    return tf.while_loop(lambda start, _: start < most, add, (0, zeros), shapes)[1]
