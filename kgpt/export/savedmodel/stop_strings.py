"""Stop strings in a TensorFlow graph: where a text ends, and after which token that is known."""

from __future__ import annotations

import tensorflow as tf

from kgpt.export.savedmodel.tokenizer import GraphTokenizer
from kgpt.generation.decode import MAX_DECODE_STEPS


class StopStrings:
    """Looks for strings in texts.

    Args:
        graph: turns ids into text.
        stops: (S,) strings; empty ones are none.
    """

    def __init__(self, graph: GraphTokenizer, stops: tf.Tensor):
        self.graph = graph
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

    def find(self, new: tf.Tensor, before: tf.Tensor, written: tf.Tensor) -> tf.Tensor:
        """How many tokens complete the first stop string (B,); -1 where there is none.

        Args:
            new: (B, M) ids, of which `written` (B,) are real; up to `before` (B,) there is none.
        """
        nowhere = tf.fill(tf.shape(written), -1)

        def look():
            whole = self.decode(new, written)
            return tf.cond(
                tf.reduce_any(self.cut(whole) != whole),
                lambda: self._first(new, before, written),
                lambda: nowhere,
            )

        return tf.cond(self.any, look, lambda: nowhere)

    def _first(self, new, before, written):
        """Look at each text as it was after each of its latest tokens."""
        counts = tf.minimum(
            before[:, None] + tf.range(1, MAX_DECODE_STEPS + 1)[None], written[:, None]
        )
        texts = self.decode(tf.repeat(new, MAX_DECODE_STEPS, axis=0), tf.reshape(counts, [-1]))
        stopped = tf.reshape(self.cut(texts) != texts, tf.shape(counts))
        fresh = tf.reduce_any(stopped, axis=1) & (written > before)
        first = tf.argmax(tf.cast(stopped, tf.int32), axis=1)
        return tf.where(fresh, tf.gather(counts, first, batch_dims=1), -1)

    def decode(self, new: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Texts of the first `count` (B,) of ids (B, M), without special tokens."""
        return self.graph.decode(tf.RaggedTensor.from_tensor(new, lengths=count))
