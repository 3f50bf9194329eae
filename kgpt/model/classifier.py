"""Classifier: a GPT whose head gives a score for each label in place of each token.

As transformers' `GPT2ForSequenceClassification` and its like: the head, without a bias, is applied
to the hidden state of a text's last token, which has seen the whole text.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import keras
from keras import ops

from kgpt.config import ModelConfig
from kgpt.errors import UsageError
from kgpt.model.gpt import GPT
from kgpt.model.hidden_state_loss import HIDDEN_STATES_OF
from kgpt.model.linear import Unembedding

Tensor = Any


@keras.saving.register_keras_serializable("kgpt")
class Classifier(GPT):
    """A decoder-only transformer that classifies texts.

    It is compiled, trained and saved as any `keras.Model`: with `kgpt.ClassificationLoss`, or with
    a Keras loss from logits. Batches are padded at the end with `pad_id`.

    Args:
        config: of the transformer; `vocab_size` must be known.
        labels: the names of the labels, in the order of their scores; two or more, or one or more
            of a model with several labels a text.
        multi_label: whether a text has any number of labels, each by itself, or exactly one.
        pad_id: the token that fills batches up, from -1 where none is; the last other token of a
            text is its last real one.
        options: those of `kgpt.GPT`.

    Example:

    >>> config = ModelConfig(vocab_size=65, num_layers=1, num_heads=2, hidden_dim=8)
    >>> model = Classifier(config, labels=["good", "bad", "ugly"], pad_id=0)
    >>> tuple(model(keras.ops.ones((2, 5), dtype="int32")).shape)
    (2, 3)
    """

    generates_text = False

    def __init__(
        self,
        config: ModelConfig | dict[str, Any],
        labels: Sequence[str],
        multi_label: bool = False,
        pad_id: int = -1,
        name: str = "classifier",
        **options: Any,
    ) -> None:
        self.labels = check_labels(labels, multi_label)  # the head is built by the next line
        super().__init__(config, name=name, **options)
        self.multi_label, self.pad_id = multi_label, pad_id

    def make_head(self) -> Unembedding:
        return Unembedding("score", self.initializer.named("score"))

    @property
    def num_outputs(self) -> int:
        return len(self.labels)

    def call(self, inputs: Tensor | dict[str, Tensor], training: bool = False) -> Tensor:
        """Logits of the labels: (B, T) integers to (B, labels).

        The input {HIDDEN_STATES_OF: token ids} gives the states (B, D) of the last tokens instead.
        """
        if isinstance(inputs, dict):
            return self.last_hidden_state(inputs[HIDDEN_STATES_OF], training)
        return self.unembed(self.last_hidden_state(inputs, training))

    def last_hidden_state(self, token_ids: Tensor, training: bool = False) -> Tensor:
        """The hidden state of each text's last token that is not `pad_id`: (B, T) to (B, D)."""
        hidden = self.hidden_states(token_ids, training)  # (B, T, D)
        positions = ops.arange(ops.shape(token_ids)[1], dtype="int32")
        last = ops.max(ops.where(token_ids != self.pad_id, positions[None], 0), axis=1)  # (B,)
        return ops.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of each label: by softmax, or of several labels a text each by a sigmoid."""
        return ops.sigmoid(logits) if self.multi_label else ops.softmax(logits, axis=-1)

    @property
    def trained_with_adapters(self) -> list[keras.Variable]:
        return [] if self.head.variable is None else [self.head.variable]

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """The classifier of a directory, run or hub id, or a new one on a language model.

        See `kgpt.checkpoints.classifiers.from_pretrained` for the options, `labels` among them.
        """
        return import_module("kgpt.checkpoints.classifiers").from_pretrained(source, **options)

    def generate(self, token_ids: Any, **options: Any) -> Any:
        raise UsageError("A classifier generates no text.")

    def get_config(self) -> dict[str, Any]:
        own = {"labels": list(self.labels), "multi_label": self.multi_label, "pad_id": self.pad_id}
        return super().get_config() | own


def check_labels(labels: Sequence[str], multi_label: bool) -> tuple[str, ...]:
    """`labels`; a `UsageError` unless they are enough and differ."""
    names = tuple(labels)
    if len(names) < (1 if multi_label else 2):
        raise UsageError(f"There are too few labels to choose from: {', '.join(names) or 'none'}.")
    if len(set(names)) < len(names):
        raise UsageError("The labels of a classifier must differ from each other.")
    return names
