"""Token ids that a model cannot take: refused with a sentence, the same on every backend.

A backend would go on without an error (TensorFlow, JAX) or raise an `IndexError` (PyTorch). Shapes
and dtypes are known wherever a model is called; ids only on the host, in `fit` and its like.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kgpt.config import ModelConfig

Tensor = Any


def check_shape(token_ids: Tensor, config: ModelConfig) -> None:
    """Raise `ValueError` unless (B, T) `token_ids` are integers, and T is at most `max_length`."""
    dtype = keras.backend.standardize_dtype(token_ids.dtype)
    if "int" not in dtype:
        raise ValueError(f"Token ids are integers, not {dtype}; convert them with astype('int32').")
    length = token_ids.shape[1]
    if isinstance(length, int) and length > config.max_length:
        raise ValueError(
            f"A sequence has {length} tokens, but the model's max_length is {config.max_length}; "
            "shorten it, or make a model with a larger max_length."
        )


class CheckedInputs:
    """Checks what is on the host of the data of `fit` and its like; mixed in before `keras.Model`.

    NumPy arrays and lists are checked whole. Of `kgpt.TrainDataset` and its like the vocabulary and
    the length are compared; they check their ids themselves.
    """

    config: ModelConfig
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
            _check_dataset(x, config)
            return
        if isinstance(x, np.ndarray | list) and (ids := np.asarray(x)).ndim == 2:
            check_shape(ids, config)
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


def _check_dataset(data: Any, config: ModelConfig) -> None:
    vocab_size, length = getattr(data, "vocab_size", 0), getattr(data, "length", 0)
    if vocab_size > config.known_vocab_size:
        raise ValueError(
            f"The data set has a vocabulary of {vocab_size}, but the model's is "
            f"{config.known_vocab_size}; make the model with vocab_size={vocab_size}."
        )
    if length > config.max_length:
        raise ValueError(
            f"The data set has sequences of {length} tokens, but the model's max_length is "
            f"{config.max_length}; give the data set a smaller length."
        )
