"""What a model takes, and a sentence for what it cannot take, the same on every backend.

- Token ids, (B, T) integers: a sequence in each row.
- {"token_ids": ids, "segment_ids": ids}, both (B, T) integers: several sequences packed into each
  row. A segment is a stretch of one id; its tokens attend to each other alone, and their positions
  start at 0. Padding is a segment, too: by convention of id 0, and its targets weigh 0.

A backend would go on without an error (TensorFlow, JAX) or raise an `IndexError` (PyTorch). Shapes
and dtypes are known wherever a model is called; ids only on the host, in `fit` and its like.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from kgpt.config import ModelConfig

Tensor = Any
TOKEN_IDS, SEGMENT_IDS = "token_ids", "segment_ids"


class Segments(NamedTuple):
    """The sequences packed into each row, each (B, T) integers.

    Attributes:
        positions: of each token in its sequence.
        segment_ids: equal for the tokens of one sequence.
    """

    positions: Tensor
    segment_ids: Tensor


def split_inputs(inputs: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Token ids (B, T), and segment ids (B, T) of packed sequences, else None.

    Raises `ValueError` if a dictionary has other keys, or the two differ in shape.
    """
    if not isinstance(inputs, dict):
        return inputs, None
    if set(inputs) != {TOKEN_IDS, SEGMENT_IDS}:
        raise ValueError(
            f"Packed inputs have the keys {TOKEN_IDS!r} and {SEGMENT_IDS!r}, "
            f"not {', '.join(map(repr, sorted(inputs)))}."
        )
    token_ids, segment_ids = inputs[TOKEN_IDS], inputs[SEGMENT_IDS]
    if tuple(token_ids.shape) != tuple(segment_ids.shape):
        raise ValueError(
            f"{TOKEN_IDS} have the shape {tuple(token_ids.shape)} and {SEGMENT_IDS} "
            f"{tuple(segment_ids.shape)}; give one segment id for each token."
        )
    return token_ids, segment_ids


def segments_of(segment_ids: Tensor, max_length: int) -> Segments:
    """The segments of ids (B, T), T at most `max_length`.

    A position is the distance from the latest start of a segment: a running maximum, in
    log2(T) steps of doubling distance, which need no value of T.
    """
    length = ops.shape(segment_ids)[1]
    steps = ops.arange(length, dtype="int32")[None]  # (1, T)
    starts = ops.not_equal(segment_ids, _shifted(segment_ids, 1, length))
    latest = ops.cast(starts, "int32") * steps  # (B, T)
    distance = 1
    while distance < max_length:
        latest = ops.maximum(latest, _shifted(latest, distance, length))
        distance *= 2
    return Segments(steps - latest, segment_ids)


def _shifted(x: Tensor, distance: int, length: Any) -> Tensor:
    """x (B, T), T = `length`, moved to the right by `distance`, with zeros on the left."""
    return ops.pad(x, ((0, 0), (distance, 0)))[:, :length]


def check_shape(token_ids: Tensor, max_length: int) -> None:
    """Raise `ValueError` unless (B, T) `token_ids` are integers, and T is at most `max_length`."""
    dtype = keras.backend.standardize_dtype(token_ids.dtype)
    if "int" not in dtype:
        raise ValueError(f"Token ids are integers, not {dtype}; convert them with astype('int32').")
    length = token_ids.shape[1]
    if isinstance(length, int) and length > max_length:
        raise ValueError(
            f"A sequence has {length} tokens, but the model's max_length is {max_length}; "
            "shorten it, or make a model with a larger max_length."
        )


class CheckedInputs:
    """Checks what is on the host of the data of `fit` and its like; mixed in before `keras.Model`.

    NumPy arrays and lists are checked whole, packed ones too. Of `kgpt.TrainDataset` and its like
    the vocabulary and the length are compared; they check their ids themselves.
    """

    config: ModelConfig

    @property
    def max_length(self) -> int:
        """The longest sequence, in tokens."""
        return self.config.max_length

    # Saving to a SavedModel, Keras on TensorFlow would trace the model for float32 inputs.
    _default_save_signature = None

    def fit(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check(x, y, kwargs.get("sample_weight"))
        return super().fit(x, y, *args, **kwargs)  # type: ignore[misc]

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check(x, y, kwargs.get("sample_weight"))
        return super().evaluate(x, y, *args, **kwargs)  # type: ignore[misc]

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self._check(x)
        return super().predict(x, *args, **kwargs)  # type: ignore[misc]

    def train_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check(x, y, args[0] if args else kwargs.get("sample_weight"))
        return super().train_on_batch(x, y, *args, **kwargs)  # type: ignore[misc]

    def test_on_batch(self, x: Any, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._check(x, y, args[0] if args else kwargs.get("sample_weight"))
        return super().test_on_batch(x, y, *args, **kwargs)  # type: ignore[misc]

    def predict_on_batch(self, x: Any) -> Any:
        self._check(x)
        return super().predict_on_batch(x)  # type: ignore[misc]

    def _check(self, x: Any, y: Any = None, sample_weight: Any = None) -> None:
        config = self.config
        if isinstance(x, keras.utils.PyDataset):
            _check_dataset(x, config, self.max_length)
            return
        if isinstance(x, dict):
            x, segment_ids = split_inputs(x)
            if isinstance(segment_ids, np.ndarray):
                _check_segments(segment_ids)
        if isinstance(x, np.ndarray | list) and (ids := np.asarray(x)).ndim == 2:
            check_shape(ids, self.max_length)
            _check_range(ids, config, "input")
        if isinstance(y, np.ndarray | list) and sample_weight is None:
            targets = np.asarray(y)
            if targets.ndim == 2 and np.issubdtype(targets.dtype, np.integer):
                _check_range(targets, config, "target")


def _check_range(ids: np.ndarray, config: ModelConfig, what: str) -> None:
    """Raise `ValueError` if an id is not below the size of the vocabulary, or negative."""
    if not ids.size:
        return
    least, most, size = int(ids.min()), int(ids.max()), config.known_vocab_size
    if least < 0 or most >= size:
        raise ValueError(
            f"A token id of the {what}s is {least if least < 0 else most}, but the model's "
            f"vocabulary has the ids 0 to {size - 1}; encode with the tokenizer of the model."
        )


def _check_segments(segment_ids: np.ndarray) -> None:
    """Raise `ValueError` unless each id of a row (B, T) is one stretch."""
    stretches = (np.diff(segment_ids, axis=1) != 0).sum(axis=1)
    distinct = (np.diff(np.sort(segment_ids, axis=1), axis=1) != 0).sum(axis=1)
    if (stretches != distinct).any():
        row = int(np.argmax(stretches != distinct))
        raise ValueError(
            f"In row {row} of {SEGMENT_IDS} an id occurs in two places; give each of the packed "
            "sequences an id of its own."
        )


def _check_dataset(data: Any, config: ModelConfig, max_length: int) -> None:
    vocab_size, length = getattr(data, "vocab_size", 0), getattr(data, "length", 0)
    if vocab_size > config.known_vocab_size:
        raise ValueError(
            f"The data set has a vocabulary of {vocab_size}, but the model's is "
            f"{config.known_vocab_size}; make the model with vocab_size={vocab_size}."
        )
    if length > max_length:
        raise ValueError(
            f"The data set has sequences of {length} tokens, but the model's max_length is "
            f"{max_length}; give the data set a smaller length."
        )
