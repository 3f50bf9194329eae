"""Forward passes over whole prompts: log-probabilities, embeddings and labels, no generation.

Prompts are padded to one batch and run through the model in chunks on a KV cache of their own, so
that memory does not grow with the length of a prompt and the engine can decode between chunks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation.forward_job import ForwardJob, PromptLogprobs
from kgpt.generation.model_functions import ModelFunctions
from kgpt.generation.sampling import Tensor
from kgpt.generation.sequence import MAX_TOP_LOGPROBS
from kgpt.generation.shapes import MIN_CACHE_LEN, shape_buckets
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache

MAX_BATCH_SIZE = 16  # prompts in one call
TOKENS_PER_CALL = 256  # rows × positions, which bounds the logits that exist at once
CHUNK_SIZES = (64, 16)  # positions of a call, where fewer are left than fit


class ForwardFunctions(ModelFunctions):
    """The compiled functions of a model for `run_batch`; each compiles anew for each shape."""

    def __init__(self, model: GPT):
        super().__init__(model)
        jit = functools.partial(backend.jit, variables=model.variables, donated=(0,))
        self.hidden = {"embedding": jit(self._sum_hidden), "classification": jit(self._last_hidden)}
        vocab_size = model.config.known_vocab_size
        self.logprobs = {
            top: jit(functools.partial(self._logprobs, min(top, vocab_size)))
            for top in (1, MAX_TOP_LOGPROBS)
        }

    def _sum_hidden(
        self, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor, total: Tensor
    ) -> tuple[KVCache, Tensor]:
        """The cache, and `total` (B, D) plus the hidden states of the first `count` tokens."""
        hidden, cache = self.model.call_with_cache(token_ids, start, count, cache)  # (B, T, D)
        is_real = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None] < count[:, None]
        hidden = ops.where(is_real[:, :, None], ops.cast(hidden, "float32"), 0.0)
        return cache, total + ops.sum(hidden, axis=1)

    def _last_hidden(
        self, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor, last: Tensor
    ) -> tuple[KVCache, Tensor]:
        """The cache, and of each row with new tokens the last one's hidden state, else `last`."""
        hidden, cache = self.model.call_with_cache(token_ids, start, count, cache)  # (B, T, D)
        index = ops.maximum(count - 1, 0)[:, None, None]
        latest = ops.cast(ops.take_along_axis(hidden, index, axis=1)[:, 0], "float32")
        return cache, ops.where(count[:, None] > 0, latest, last)

    def _logprobs(
        self,
        top: int,
        cache: KVCache,
        token_ids: Tensor,
        start: Tensor,
        count: Tensor,
        next_ids: Tensor,
    ) -> tuple[KVCache, Tensor, Tensor, Tensor]:
        """The cache; log-probabilities of `next_ids` (B, T); the best (B, T, top) and theirs."""
        hidden, cache = self.model.call_with_cache(token_ids, start, count, cache)
        logits = self.model.unembed(hidden)  # (B, T, V)
        logsumexp = ops.logsumexp(logits, axis=-1)  # (B, T)
        chosen = ops.take_along_axis(logits, next_ids[:, :, None], axis=-1)[:, :, 0]
        if top == 1:
            best = ops.max(logits, axis=-1, keepdims=True)
            ids = ops.argmax(logits, axis=-1)[:, :, None]
        else:
            best, ids = ops.top_k(logits, top)
        best = best - logsumexp[:, :, None]
        return cache, chosen - logsumexp, ops.cast(ids, "int32"), best


def run_batch(
    model: GPT, jobs: Sequence[ForwardJob], max_batch_size: int, max_context: int
) -> Iterator[None]:
    """Compute the results of jobs that are alike, one chunk of all prompts a step.

    Args:
        max_batch_size: the batch is padded to one of a few sizes up to this.
        max_context: likewise for its KV cache.
    """
    longest = max(len(job.token_ids) for job in jobs)
    rows = _bucket(shape_buckets(max_batch_size, 1, factor=4), len(jobs))
    cache_len = _bucket(shape_buckets(max_context, MIN_CACHE_LEN), longest)
    ids = [job.adapter.index if job.adapter else 0 for job in jobs]
    cache = model.new_cache(rows, cache_len, ids)
    parts: list[Any] = []
    total: Tensor = np.zeros((rows, model.config.hidden_dim), "float32")
    functions, task = ForwardFunctions.of(model), jobs[0].task
    top = MAX_TOP_LOGPROBS if jobs[0].wants_many else 1
    lengths = np.array([len(job.token_ids) for job in jobs] + [0] * (rows - len(jobs)), "int32")
    padded = np.zeros((rows, longest + TOKENS_PER_CALL + 1), "int32")
    for row, job in enumerate(jobs):
        padded[row, : lengths[row]] = job.token_ids
    begin = 0
    while begin < longest:
        size = _chunk_size(rows, longest - begin, cache_len)
        token_ids = padded[:, begin : begin + size]
        next_ids = padded[:, begin + 1 : begin + size + 1]
        start = np.minimum(lengths, begin).astype("int32")
        count = np.clip(lengths - begin, 0, size).astype("int32")
        if task != "logprobs":
            cache, total = functions.hidden[task](cache, token_ids, start, count, total)
        else:
            cache, *part = functions.logprobs[top](cache, token_ids, start, count, next_ids)
            parts.append(backend.to_host(part))
        begin += size
        yield
    if task == "embedding":
        _finish_embeddings(jobs, backend.to_host(total))
    elif task == "classification":
        probabilities = model.probabilities(model.unembed(total))
        for job, row in zip(jobs, backend.to_host(probabilities), strict=False):
            job.result = row
    else:
        _finish_logprobs(jobs, [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)])


def _finish_embeddings(jobs: Sequence[ForwardJob], total: np.ndarray) -> None:
    for job, row in zip(jobs, total, strict=False):
        length = float(np.linalg.norm(row))  # the mean has the direction of the sum
        job.result = row / max(length, 1e-12)


def _finish_logprobs(jobs: Sequence[ForwardJob], outputs: list[np.ndarray]) -> None:
    for row, job in enumerate(jobs):
        logprobs, top_ids, top_logprobs = (output[row, : len(job.token_ids)] for output in outputs)
        top = slice(job.top_logprobs)
        job.result = PromptLogprobs(logprobs[:-1], top_ids[:, top], top_logprobs[:, top])


def _chunk_size(rows: int, remaining: int, cache_len: int) -> int:
    """Positions of the next call: as many as are left, or as fit `TOKENS_PER_CALL`."""
    most = max(TOKENS_PER_CALL // rows, CHUNK_SIZES[-1])
    sizes = [most, *(size for size in CHUNK_SIZES if size < most)]
    return min(min((size for size in sizes if size >= remaining), default=most), cache_len)


def _bucket(sizes: Sequence[int], wanted: int) -> int:
    """The smallest of the ascending `sizes` that is enough."""
    return next(size for size in sizes if size >= wanted)
