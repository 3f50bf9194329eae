"""Training throughput: what `kgpt bench train` and the benchmarks measure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.config import Config
from kgpt.datasheet import find_datasheet
from kgpt.processor import processor_with_features
from kgpt.training.pretraining import build_model, sequence_length

WARMUP_STEPS = 3  # compilation
DEFAULT_VOCAB_SIZE = 50257  # if the configuration leaves it to the data set


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


def measure_training(config: Config, batch_sizes: Sequence[int], steps: int) -> dict[str, Any]:
    """Throughput of `config` at each batch size, with its shares of the peak FLOP/s.

    Args:
        batch_sizes: measured from the smallest to the largest, since peak memory never falls.
        steps: forward and backward passes measured, after `WARMUP_STEPS`.

    Returns: what `describe` says, and "batches", a dictionary for each batch size.
    """
    batches = list(batch_figures(config, sorted(batch_sizes), steps))
    figures = describe(config)
    for row in batches:
        rate = row["tokens_per_s"] * figures["flops_per_token"]
        row["mfu"] = rate / figures["matmul_peak"]
        if peak := figures["datasheet_peak"]:
            row["datasheet_mfu"] = rate / peak
    return {**figures, "batches": batches}


def describe(config: Config) -> dict[str, Any]:
    """Model, device and peaks; "datasheet_peak" is None for a device or precision without one.

    "processor" names the CPU where that is the device.

    FLOPs are counted as in PaLM, Appendix B, which is also nanoGPT's count.
    """
    precision, (platform, device) = config.train.precision, backend.device()
    datasheet, model = find_datasheet(device), _with_vocabulary(config).model
    return {
        "backend": backend.name,
        "device": device,
        "processor": processor_with_features() if platform == "cpu" else None,
        "precision": precision,
        "parameters": model.num_parameters(),
        "flops_per_token": model.flops_per_token(sequence_length(config)),
        "matmul_peak": matmul_peak(precision),
        "datasheet_peak": datasheet.peak_flops(precision) if datasheet else None,
    }


def batch_figures(
    config: Config, batch_sizes: Sequence[int], steps: int
) -> Iterator[dict[str, Any]]:
    """Times, tokens per second and peak memory in bytes, at each batch size in turn."""
    config = _with_vocabulary(config)
    length = sequence_length(config)
    for batch_size in batch_sizes:
        model, clock = build_model(config), StepClock()
        batches = RepeatedBatch(
            config.model.known_vocab_size, batch_size, length, WARMUP_STEPS + steps
        )
        model.fit(batches, verbose=0, callbacks=[clock], shuffle=False)
        seconds = statistics.median(clock.times[WARMUP_STEPS:])
        yield {
            "batch": batch_size,
            "ms_per_step": 1e3 * seconds,
            "tokens_per_s": batch_size * length / seconds,
            "peak_memory": backend.peak_memory(),
            "compile_s": sum(clock.times[:WARMUP_STEPS]) - WARMUP_STEPS * seconds,
        }


def _with_vocabulary(config: Config) -> Config:
    if config.model.vocab_size is not None:
        return config
    model = config.model.model_copy(update={"vocab_size": DEFAULT_VOCAB_SIZE})
    return config.model_copy(update={"model": model})
