"""Stop strings in a TensorFlow graph: where a text ends, and which token completes the string."""

from __future__ import annotations

import tensorflow as tf

from kgpt.export.savedmodel.tokenizer import GraphTokenizer
from kgpt.generation.decode import MAX_DECODE_STEPS


class StopStrings:
    """Finds stop strings in texts.

    Args:
        tokenizer: decodes the ids.
        stops: (S,) strings; empty ones are ignored.
    """

    def __init__(self, tokenizer: GraphTokenizer, stops: tf.Tensor):
        self.tokenizer = tokenizer
        stops = tf.boolean_mask(stops, stops != b"")
        stops = tf.strings.unicode_transcode(stops, "UTF-8", "UTF-8", errors="replace")
        literal = tf.strings.regex_replace(stops, r"[!-/:-@\[-`{-~]", r"\\\0")
        literal = tf.strings.regex_replace(literal, r"\x00", r"\\x00")
        self.any = tf.size(stops) > 0
        self.pattern = tf.strings.join(
            ["(?s)(?:", tf.strings.reduce_join(literal, 0, separator="|"), ").*"]
        )

    def cut(self, texts: tf.Tensor) -> tf.Tensor:
        """Texts (B,) up to the first stop string in each."""
        # The first match is the leftmost, whichever string it is.
        return tf.cond(
            self.any,
            lambda: tf.strings.regex_replace(texts, self.pattern, "", False),
            lambda: texts,
        )

    def find(self, generated: tf.Tensor, before: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """The number of tokens up to the end of the first stop string (B,); -1 without one.

        Args:
            generated: (B, M) ids, of which `count` (B,) are real.
            before: (B,) ids that are known to contain no stop string.
        """
        not_found = tf.fill(tf.shape(count), -1)

        def search() -> tf.Tensor:
            whole = self.decode(generated, count)
            return tf.cond(
                tf.reduce_any(self.cut(whole) != whole),
                lambda: self._first(generated, before, count),
                lambda: not_found,
            )

        return tf.cond(self.any, search, lambda: not_found)

    def _first(self, generated: tf.Tensor, before: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Decode each text after each of its latest tokens, and find the first that has a stop."""
        counts = tf.minimum(
            before[:, None] + tf.range(1, MAX_DECODE_STEPS + 1)[None], count[:, None]
        )
        texts = self.decode(
            tf.repeat(generated, MAX_DECODE_STEPS, axis=0), tf.reshape(counts, [-1])
        )
        stopped = tf.reshape(self.cut(texts) != texts, tf.shape(counts))
        found = tf.reduce_any(stopped, axis=1) & (count > before)
        first = tf.argmax(tf.cast(stopped, tf.int32), axis=1)
        return tf.where(found, tf.gather(counts, first, batch_dims=1), -1)

    def decode(self, generated: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Texts of the first `count` (B,) of ids (B, M), without special tokens."""
        return self.tokenizer.decode(tf.RaggedTensor.from_tensor(generated, lengths=count))
