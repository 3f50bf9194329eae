"""What the SavedModels of generators and classifiers share: tokenizer, weights, signatures."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from kgpt.config import SamplingConfig
from kgpt.export.savedmodel.tokenizer import GraphTokenizer, UnsupportedTokenizer
from kgpt.model.gpt import GPT
from kgpt.text.tokenizer import Tokenizer

PAD_ID = -1
IDS = tf.TensorSpec([None, None], tf.int32, "ids")
TEXTS = tf.TensorSpec([None], tf.string, "texts")

Tensors = dict[str, tf.Tensor]
Function = Any  # a `tf.function` with an input signature
traced = functools.partial(tf.function, autograph=False)


class ServedModel:
    """A model and its tokenizer as functions of tensors.

    Args:
        model: on the TensorFlow backend.
        tokenizer: the model's.

    Attributes:
        signatures: by name; "serving_default" is the one that servers call by default.
        text_signatures: those that need the tokenizer in the graph.
        missing: signatures that could not be built, each with the reason.
        state: the tables and weights they use.
    """

    text_signatures: ClassVar[tuple[str, ...]] = ()

    defaults = SamplingConfig()  # of signatures that generate

    def __init__(self, model: GPT, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.signatures: dict[str, Function] = {}
        self.missing: dict[str, str] = {}
        self.state = tf.Module()
        self.state.weights = [variable.value for variable in model.variables]
        self.graph_tokenizer = self._build_graph_tokenizer()
        self.state.tokenizer = self.graph_tokenizer

    @property
    def specs(self) -> dict[str, Sequence[tf.TensorSpec]]:
        """The inputs of each signature."""
        return {name: function.input_signature for name, function in self.signatures.items()}

    def _build_graph_tokenizer(self) -> GraphTokenizer | None:
        try:
            return GraphTokenizer(self.tokenizer)
        except UnsupportedTokenizer as error:
            reason = f"the tokenizer cannot be put into the graph: {error}"
            self.missing |= dict.fromkeys(self.text_signatures, reason)
            return None

    @property
    def _tokenizer(self) -> GraphTokenizer:
        assert self.graph_tokenizer is not None, "signatures on text need a tokenizer"
        return self.graph_tokenizer

    def _tokenize(self, texts: tf.Tensor) -> Tensors:
        ids = self._tokenizer.encode(texts)
        return {"ids": ids.to_tensor(PAD_ID), "num_tokens": row_lengths(ids)}

    def _prompt_ids(self, prompts: tf.Tensor) -> tf.RaggedTensor:
        """Ids of prompts (B,), each with the BOS ids and at least one token."""
        ids = prepend(self.tokenizer.bos_ids, self._tokenizer.encode(prompts))
        empty = tf.cast(ids.row_lengths() == 0, tf.int64)
        start = tf.fill([tf.reduce_sum(empty)], self._document_start)
        return tf.concat([tf.RaggedTensor.from_row_lengths(start, empty, validate=False), ids], 1)

    @property
    def _document_start(self) -> int:
        """The token that replaces an empty prompt: the one before every document."""
        return self.tokenizer.eos_id or 0


def row_lengths(ids: tf.RaggedTensor) -> tf.Tensor:
    """The number of tokens in each row (B,) int32."""
    return tf.cast(ids.row_lengths(), tf.int32)


def prepend(tokens: Sequence[int], ids: tf.RaggedTensor) -> tf.RaggedTensor:
    """Ragged ids with `tokens` before each row."""
    return tf.concat([_repeat(tokens, ids), ids], axis=1) if tokens else ids


def append(ids: tf.RaggedTensor, tokens: Sequence[int]) -> tf.RaggedTensor:
    """Ragged ids with `tokens` after each row."""
    return tf.concat([ids, _repeat(tokens, ids)], axis=1)


def _repeat(tokens: Sequence[int], ids: tf.RaggedTensor) -> tf.RaggedTensor:
    """`tokens` in as many rows as `ids` has."""
    row = tf.constant([list(tokens)], tf.int32)
    return tf.RaggedTensor.from_tensor(tf.tile(row, [ids.nrows(), 1]), ragged_rank=1)
