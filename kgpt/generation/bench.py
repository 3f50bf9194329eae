"""Measurements of writing: what `kgpt bench generate` and the benchmarks print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from kgpt import backend
from kgpt.config import SamplingConfig
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import cache_bytes

WIDTHS = {"float16": 2, "bfloat16": 2}  # bytes a number; of others 4
GIGA = 1 << 28  # float32 numbers in a gibibyte


def measure(
    model: GPT,
    new_tokens: int,
    prompt_tokens: int,
    batches: Sequence[int],
    contexts: Sequence[int],
    repeats: int = 2,
) -> dict[str, Any]:
    """All figures of one model; the best of `repeats`, after compiling.

    The bound is what memory allows: each step reads every weight, and the caches, once.
    """
    limit = model.config.max_length
    prompt_tokens = max(1, min(prompt_tokens, limit - 1))
    new_tokens = min(new_tokens, limit - prompt_tokens)
    width = WIDTHS.get(model.compute_dtype, 4)
    in_8_bits = any(variable.dtype == "int8" for variable in model.variables)
    weights = model.config.num_parameters() * (1 if in_8_bits else width)
    bandwidth = memory_bandwidth()
    result: dict[str, Any] = {
        "backend": backend.name,
        "device": backend.device()[1],
        "parameters": model.config.num_parameters(),
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "bandwidth": bandwidth,
        "bound_tokens_per_s": bandwidth / weights,
        "first_token_ms": 1e3 * _first_token(model, prompt_tokens, repeats),
        "batches": [],
        "contexts": [],
    }
    for rows in batches:
        seconds = time_writing(model, rows, prompt_tokens, new_tokens, repeats)
        cache = cache_bytes(model.config, rows * (prompt_tokens + new_tokens // 2), width)
        bound = rows * bandwidth / (weights + cache)
        rate = rows * new_tokens / seconds
        result["batches"].append(
            {
                "batch": rows,
                "tokens_per_s": rate,
                "ms_per_step": 1e3 * seconds / new_tokens,
                "of_bound": rate / bound,
            }
        )
    for context in (c for c in contexts if c <= limit):
        count = min(16, context - 1)
        seconds = time_writing(model, 1, context - count, count, repeats, with_prompt=False)
        row = {"context": context, "ms_per_token": 1e3 * seconds / count}
        result["contexts"].append(row)
    return result


def time_writing(
    model: GPT, rows: int, prompt: int, new: int, repeats: int = 2, with_prompt: bool = True
) -> float:
    """Seconds to write `new` tokens after prompts of `prompt` tokens, in `rows` texts at once."""
    batch, best = ModelRunner(model, rows), float("inf")
    noise = np.random.default_rng(0)
    greedy = SamplingConfig(temperature=0, max_tokens=new)
    for _ in range(repeats + 1):  # the first time compiles
        started = time.perf_counter()
        for row in range(rows):
            ids = noise.integers(0, model.config.known_vocab_size, size=prompt).tolist()
            batch.join(row, Request(ids, greedy))
        while reading := [i for i in range(rows) if not batch.rows[i].writing]:
            batch.read(reading)
        if not with_prompt:
            backend.synchronize(batch.cache[0][0])
            started = time.perf_counter()
        while batch.writing():
            batch.write()
        best = min(best, time.perf_counter() - started)
    return best


def memory_bandwidth(repeats: int = 5) -> float:
    """Bytes a second that this machine reads from memory, measured on an array no cache holds."""
    if backend.device()[0] != "cpu":
        return _device_bandwidth(repeats)
    from concurrent.futures import ThreadPoolExecutor
    from os import cpu_count

    parts = np.array_split(np.ones(GIGA // 4, "float32"), cpu_count() or 1)
    best = float("inf")
    with ThreadPoolExecutor(len(parts)) as pool:
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = min(best, time.perf_counter() - started)
    return GIGA // 4 * 4 / best


def _device_bandwidth(repeats: int) -> float:
    from keras import ops

    x = ops.ones((GIGA,))
    total = backend.jit(ops.sum)
    backend.synchronize(total(x))
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        backend.synchronize(total(x))
        best = min(best, time.perf_counter() - started)
    return GIGA * 4 / best


def _first_token(model: GPT, prompt: int, repeats: int) -> float:
    """Seconds from a prompt to its first token."""
    return time_writing(model, 1, prompt, 1, repeats)
