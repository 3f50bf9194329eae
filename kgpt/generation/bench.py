"""Generation throughput and latency: what `kgpt bench generate` and the benchmarks measure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT

BYTES_PER_NUMBER = {"float16": 2, "bfloat16": 2}  # of other dtypes 4
GIBIBYTE = 1 << 30


def measure(
    model: GPT,
    new_tokens: int,
    prompt_tokens: int,
    batch_sizes: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 2,
) -> dict[str, Any]:
    """All figures of one model: the best of `repeats`, after compilation.

    The bound is memory bandwidth: each decode step reads every weight and the caches once.
    """
    limit = model.config.max_length
    prompt_tokens = max(1, min(prompt_tokens, limit - 1))
    new_tokens = min(new_tokens, limit - prompt_tokens)
    number_size = BYTES_PER_NUMBER.get(model.compute_dtype, 4)
    is_int8 = any(variable.dtype == "int8" for variable in model.variables)
    weight_bytes = model.config.num_parameters() * (1 if is_int8 else number_size)
    bandwidth = memory_bandwidth()

    def batch_figures(batch_size: int) -> dict[str, float]:
        seconds = time_generation(model, batch_size, prompt_tokens, new_tokens, repeats)
        mean_tokens = batch_size * (prompt_tokens + new_tokens // 2)
        step_bytes = weight_bytes + model.config.cache_bytes(mean_tokens, number_size)
        rate = batch_size * new_tokens / seconds
        return {
            "batch": batch_size,
            "tokens_per_s": rate,
            "ms_per_step": 1e3 * seconds / new_tokens,
            "of_bound": rate / (batch_size * bandwidth / step_bytes),
        }

    def context_figures(context: int) -> dict[str, float]:
        count = min(16, context - 1)
        seconds = time_generation(model, 1, context - count, count, repeats, with_prefill=False)
        return {"context": context, "ms_per_token": 1e3 * seconds / count}

    return {
        "backend": backend.name,
        "device": backend.device()[1],
        "parameters": model.config.num_parameters(),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "bandwidth": bandwidth,
        "bound_tokens_per_s": bandwidth / weight_bytes,
        "first_token_ms": 1e3 * time_generation(model, 1, prompt_tokens, 1, repeats),
        "batches": [batch_figures(batch_size) for batch_size in batch_sizes],
        "contexts": [context_figures(context) for context in contexts if context <= limit],
    }


def time_generation(
    model: GPT,
    batch_size: int,
    prompt_tokens: int,
    new_tokens: int,
    repeats: int = 2,
    with_prefill: bool = True,
) -> float:
    """Seconds to generate `new_tokens` after random prompts in `batch_size` sequences at once."""
    runner, best = ModelRunner(model, batch_size), float("inf")
    random = np.random.default_rng(0)
    greedy = SamplingConfig(temperature=0, max_tokens=new_tokens)
    shape = (repeats + 1, batch_size, prompt_tokens)
    prompts = random.integers(0, model.config.known_vocab_size, size=shape).tolist()
    for batch in prompts:  # the first one compiles
        started = time.perf_counter()
        for slot, ids in enumerate(batch):
            runner.add(slot, Request(ids, greedy))
        while pending := [i for i in range(batch_size) if not runner.sequences[i].is_decoding]:
            runner.prefill(pending)
        if not with_prefill:
            backend.synchronize(runner.cache[0][0])
            started = time.perf_counter()
        while runner.decoding_slots():
            runner.decode()
        best = min(best, time.perf_counter() - started)
    return best


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
