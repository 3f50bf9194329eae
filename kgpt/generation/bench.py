"""Generation throughput and latency: what `kgpt bench generate` and the benchmarks measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.backend.peak import matmul_peak
from kgpt.checkpoints import model_info
from kgpt.config import SamplingConfig
from kgpt.datasheet import find_datasheet
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT

BYTES_PER_NUMBER = {"float16": 2, "bfloat16": 2, "int8": 1}  # of other dtypes 4
GIBIBYTE = 1 << 30


class GenerationTime(NamedTuple):
    """Seconds of one generation: its prompts, and its new tokens."""

    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        return self.prefill_s + self.decode_s


def measure(
    model: GPT,
    new_tokens: int,
    prompt_tokens: int,
    batch_sizes: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 2,
) -> dict[str, Any]:
    """All figures of one model: the best of `repeats`, after compilation.

    Batch sizes are measured from the smallest to the largest, since peak memory never falls.
    """
    limit = model.max_length
    prompt_tokens = max(1, min(prompt_tokens, limit - 1))
    new_tokens = min(new_tokens, limit - prompt_tokens)
    batches = [
        batch_figures(model, size, prompt_tokens, new_tokens, repeats)
        for size in sorted(batch_sizes)
    ]

    def context_figures(context: int) -> dict[str, float]:
        count = min(16, context - 1)
        measured = time_generation(model, 1, context - count, count, repeats)
        return {"context": context, "ms_per_token": 1e3 * measured.decode_s / count}

    by_context = [context_figures(context) for context in contexts if context <= limit]
    figures = describe(model)  # last, since measuring the bandwidth takes memory
    return {
        **figures,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "batches": [row | shares(row, figures) for row in batches],
        "contexts": by_context,
    }


def describe(model: GPT) -> dict[str, Any]:
    """Model, device and peaks: bytes per second and FLOP/s, measured and by the datasheet.

    None is what there is no figure of: the peak of quantized weights, a device or precision
    without datasheet.
    """
    device, precision = backend.device()[1], model.compute_dtype
    datasheet, quantized = find_datasheet(device), weight_format(model) is not None
    bandwidth = memory_bandwidth()
    return {
        "backend": backend.name,
        "device": device,
        "parameters": model.config.num_parameters(),
        "bandwidth": bandwidth,
        "datasheet_bandwidth": datasheet.bandwidth if datasheet else None,
        "bound_tokens_per_s": bandwidth / weight_bytes(model),
        "matmul_peak": None if quantized else matmul_peak(precision),
        "datasheet_peak": datasheet.peak_flops(precision) if datasheet and not quantized else None,
    }


def batch_figures(
    model: GPT, batch_size: int, prompt_tokens: int, new_tokens: int, repeats: int = 2
) -> dict[str, Any]:
    """Latency, throughput, peak memory, and the bytes and FLOPs of a decode step.

    A decode step reads every weight once, and the caches at their mean length; FLOPs are counted
    as for training (`ModelConfig.flops_per_token`), of which the forward pass is a third.
    """
    whole = time_generation(model, batch_size, prompt_tokens, new_tokens, repeats)
    first = time_generation(model, batch_size, prompt_tokens, 1, repeats)
    length = prompt_tokens + new_tokens // 2
    cached = model.config.cache_bytes(
        batch_size * length, BYTES_PER_NUMBER.get(model.cache_dtype, 4)
    )
    return {
        "batch": batch_size,
        "first_token_ms": 1e3 * first.total_s,
        "ms_per_token": 1e3 * whole.decode_s / new_tokens,
        "tokens_per_s": batch_size * new_tokens / whole.total_s,
        "peak_memory": backend.peak_memory(),
        "step_bytes": weight_bytes(model) + cached,
        "step_flops": batch_size * model.config.flops_per_token(length) / 3,
    }


SHARES = {
    "of_bandwidth": ("step_bytes", "bandwidth"),
    "of_datasheet_bandwidth": ("step_bytes", "datasheet_bandwidth"),
    "of_peak": ("step_flops", "matmul_peak"),
    "of_datasheet_peak": ("step_flops", "datasheet_peak"),
}


def shares(row: dict[str, Any], figures: dict[str, Any]) -> dict[str, float]:
    """The shares of the peaks in `figures` that the decode steps of `row` reach."""
    step_s = row["ms_per_token"] / 1e3
    return {
        name: row[work] / step_s / figures[peak]
        for name, (work, peak) in SHARES.items()
        if figures[peak]
    }


def weight_format(model: GPT) -> str | None:
    """The format of quantized weights: "int8" or "int4"; None if they are floats."""
    formats = {linear.format for linear in model.linears} & {"int8", "int4"}
    return formats.pop() if formats else None


def number_size(model: GPT) -> int:
    """Bytes of a number of the computation."""
    return BYTES_PER_NUMBER.get(model.compute_dtype, 4)


def weight_bytes(model: GPT) -> int:
    """Bytes of all weights, scales of quantized ones included."""
    if quantized := weight_format(model):
        return model_info.weight_bytes(model.config)[quantized]
    return model.config.num_parameters() * number_size(model)


def time_generation(
    model: GPT, batch_size: int, prompt_tokens: int, new_tokens: int, repeats: int = 2
) -> GenerationTime:
    """The time of `new_tokens` after random prompts in `batch_size` sequences at once.

    The best of `repeats`, after one that compiles.
    """
    runner, times = ModelRunner(model, batch_size), []
    random = np.random.default_rng(0)
    greedy = SamplingConfig(temperature=0, max_tokens=new_tokens)
    shape = (repeats + 1, batch_size, prompt_tokens)
    prompts = random.integers(0, model.config.known_vocab_size, size=shape).tolist()
    for batch in prompts:
        started = time.perf_counter()
        for slot, ids in enumerate(batch):
            runner.add(slot, Request(ids, greedy))
        while pending := [i for i in range(batch_size) if not runner.sequences[i].is_decoding]:
            runner.prefill(pending)
        backend.synchronize(runner.cache[0][0])
        prefilled = time.perf_counter()
        while runner.decoding_slots():
            runner.decode()
        times.append(GenerationTime(prefilled - started, time.perf_counter() - prefilled))
    return min(times[1:], key=lambda measured: measured.total_s)


def memory_bandwidth(repeats: int = 5) -> float:
    """Bytes per second read from memory, measured on an array that no processor cache holds."""
    if backend.device()[0] != "cpu":
        return _device_bandwidth(repeats)
    threads = os.cpu_count() or 1
    parts = np.array_split(np.ones(GIBIBYTE // 16, "float32"), threads)
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best_time(lambda: list(pool.map(np.sum, parts)), repeats)
    return GIBIBYTE / 4 / seconds


def _device_bandwidth(repeats: int) -> float:
    numbers = ops.ones((GIBIBYTE // 4,))
    total = backend.jit(ops.sum)
    backend.synchronize(total(numbers))
    return GIBIBYTE / _best_time(lambda: backend.synchronize(total(numbers)), repeats)


def _best_time(work: Callable[[], Any], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best
