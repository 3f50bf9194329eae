"""Measure `model.fit`: the same batch repeated, and the time of each step."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np


class RepeatedBatch(keras.utils.PyDataset):
    """One batch of random tokens, `repeats` times: inputs and targets, each (B, T)."""

    def __init__(self, vocab_size: int, batch_size: int, length: int, repeats: int = 0):
        super().__init__()
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(0, vocab_size, (batch_size, length + 1), "int32")
        self.repeats = repeats

    def __len__(self) -> int:
        return self.repeats

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens[:, :-1], self.tokens[:, 1:]


class StepClock(keras.callbacks.Callback):
    """`times`: seconds of each step of the latest `fit`, until its loss is known."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        float((logs or {})["loss"])  # waits until the step is done
        self.times.append(time.perf_counter() - self.start)
