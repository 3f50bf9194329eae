"""The signatures of a classifier's SavedModel: texts, or ids, to labels and scores."""

from __future__ import annotations

import tensorflow as tf

from kgpt.export.savedmodel.served_model import (
    IDS,
    TEXTS,
    ServedModel,
    Tensors,
    row_lengths,
    traced,
)
from kgpt.model.classifier import Classifier
from kgpt.text.tokenizer import Tokenizer


class ServedClassifier(ServedModel):
    """A classifier as functions of tensors: `classify`, `classify_ids` and `tokenize`.

    Of each text they give all labels, the most probable first, and their probabilities. A text
    longer than the context is cut at its end, as by `kgpt classify predict`.
    """

    text_signatures = ("classify", "tokenize")
    model: Classifier

    def __init__(self, model: Classifier, tokenizer: Tokenizer):
        super().__init__(model, tokenizer)
        # Traced once, used by both signatures.
        self._rank = traced(self._rank_labels, [IDS, tf.TensorSpec([None], tf.int32)])
        by_ids = traced(self._classify_ids, [IDS])
        self.signatures = {"classify_ids": by_ids, "serving_default": by_ids}
        if self.graph_tokenizer is not None:
            by_text = traced(self._classify, [TEXTS])
            self.signatures |= {"classify": by_text, "serving_default": by_text}
            self.signatures["tokenize"] = traced(self._tokenize, [TEXTS])

    def _classify(self, texts: tf.Tensor) -> Tensors:
        ids = self._prompt_ids(texts)
        outputs: Tensors = self._rank(ids.to_tensor(), row_lengths(ids))
        return outputs

    def _classify_ids(self, ids: tf.Tensor) -> Tensors:
        outputs: Tensors = self._rank(ids, tf.reduce_sum(tf.cast(ids >= 0, tf.int32), axis=1))
        return outputs

    def _rank_labels(self, ids: tf.Tensor, length: tf.Tensor) -> Tensors:
        """Labels (B, labels) and scores of ids (B, T), of which the first `length` (B,) count."""
        window = self.model.config.max_length
        hidden = self.model.hidden_states(tf.maximum(ids[:, :window], 0))  # (B, T, D)
        last = tf.clip_by_value(length, 1, window) - 1
        logits = self.model.unembed(tf.gather(hidden, last, batch_dims=1))
        probabilities = tf.cast(self.model.probabilities(logits), tf.float32)
        scores, order = tf.math.top_k(probabilities, k=len(self.model.labels))
        return {"labels": tf.gather(tf.constant(self.model.labels), order), "scores": scores}
