"""Measuring `model.fit`: the same batch again and again, and a clock on each step."""

from __future__ import annotations

import time

import keras
import numpy as np


class RepeatedBatch(keras.utils.PyDataset):
    """One batch of random tokens, `repeats` times: inputs and targets, each (B, T)."""

    def __init__(self, vocab_size: int, batch_size: int, length: int, repeats: int = 0):
        super().__init__()
        noise = np.random.default_rng(0)
        self.tokens = noise.integers(0, vocab_size, (batch_size, length + 1), "int32")
        self.repeats = repeats

    def __len__(self):
        return self.repeats

    def __getitem__(self, index):
        return self.tokens[:, :-1], self.tokens[:, 1:]


class StepClock(keras.callbacks.Callback):
    """`times`: the seconds of each step of the latest `fit`, until its loss is known."""

    def on_train_begin(self, logs=None):
        self.times: list[float] = []

    def on_train_batch_begin(self, batch, logs=None):
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits until the step is done
        self.times.append(time.perf_counter() - self.start)
