"""Log-likelihoods of continuations, as multiple-choice tasks ask for them.

What several continuations share, their context, is read once: its KV cache is copied for each of
them. Logits are computed for the continuations alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from kgpt import backend
from kgpt.generation.compiled import CompiledFunctions
from kgpt.generation.model_functions import ModelFunctions
from kgpt.generation.sampling import Tensor
from kgpt.model.gpt import GPT
from kgpt.model.kv_cache import KVCache

CONTEXT_TOKENS = 2048  # of the contexts that are read in one call
CACHE_TOKENS = 4096  # rows × positions of the caches of continuations
LOGIT_ROWS = 512  # positions whose logits exist at once


@dataclass(frozen=True)
class Continuation:
    """Tokens whose log-likelihood after others is wanted.

    Attributes:
        number: of the request.
        prefix: the context without its last token.
        inputs, targets: (T,) the tokens that are read after the prefix, and those that follow them.
    """

    number: int
    prefix: tuple[int, ...]
    inputs: list[int]
    targets: list[int]

    @property
    def end(self) -> int:
        """The number of tokens that are read."""
        return len(self.prefix) + len(self.inputs)


class ContinuationFunctions(ModelFunctions):
    """The compiled functions of a model for `score_continuations`."""

    def __init__(self, model: GPT):
        super().__init__(model)
        self.repeat = backend.jit(_repeat)
        self.score = backend.jit(self._score, model.variables, donated=(0,))

    def _score(
        self, cache: KVCache, token_ids: Tensor, start: Tensor, count: Tensor, targets: Tensor
    ) -> tuple[KVCache, Tensor, Tensor]:
        """The cache; of each row the log-likelihood of its first `count` (B,) targets (B, T), and
        whether each of them is the most likely token."""
        hidden, cache = self.model.call_with_cache(token_ids, start, count, cache)
        logits = ops.cast(self.model.unembed(hidden), "float32")  # (B, T, V)
        chosen = ops.take_along_axis(logits, targets[:, :, None], axis=-1)[:, :, 0]
        logprobs = chosen - ops.logsumexp(logits, axis=-1)
        is_best = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
        counted = ops.arange(ops.shape(token_ids)[1], dtype="int32")[None] < count[:, None]
        total = ops.sum(ops.where(counted, logprobs, 0.0), axis=1)
        greedy = ops.all(ops.logical_or(is_best, ops.logical_not(counted)), axis=1)
        return cache, total, greedy


def _repeat(cache: KVCache, sources: Tensor) -> KVCache:
    """A cache whose row i is a copy of the row `sources[i]`."""
    return [tuple(ops.take(part, sources, axis=0) for part in entry) for entry in cache]


def make_continuation(
    number: int, context: Sequence[int], continuation: Sequence[int], max_context: int
) -> Continuation:
    """The request in a model's context: of a longer text, the oldest tokens are left out.

    Args:
        context: token ids, at least one. continuation: at least one, at most `max_context`.
    """
    whole = [*context, *continuation][-(max_context + 1) :]
    first = len(whole) - len(continuation)  # of the targets
    return Continuation(number, tuple(whole[: first - 1]), whole[first - 1 : -1], whole[first:])


def score_continuations(
    model: GPT,
    continuations: Sequence[Continuation],
    max_context: int,
    run: Callable[[Callable[[], None]], None] = lambda function: function(),
    progress: Callable[[int], None] = lambda count: None,
) -> list[tuple[float, bool]]:
    """The log-likelihood of each continuation, and whether greedy decoding would generate it.

    Args:
        max_context: tokens that the model reads, at most.
        run: runs a function in the thread that owns the model.
        progress: called with the number of continuations that are done.
    """
    found = [(0.0, True)] * len(continuations)
    for batch in _batches(continuations):
        cache_len = min(size_bucket(max(one.end for one in batch), 16), max_context)
        run(functools.partial(_score_batch, model, batch, cache_len, found))
        progress(len(batch))
    return found


def _batches(continuations: Sequence[Continuation]) -> Iterator[list[Continuation]]:
    """Continuations of contexts of similar length, those of one context together."""
    groups: dict[tuple[int, ...], list[Continuation]] = {}
    for one in continuations:
        groups.setdefault(one.prefix, []).append(one)
    batch: list[Continuation] = []
    contexts = 0
    for group in sorted(groups.values(), key=lambda group: (len(group[0].prefix), group[0].end)):
        tokens = size_bucket(contexts + 1) * size_bucket(len(group[0].prefix), 16)
        if batch and tokens > CONTEXT_TOKENS:
            yield batch
            batch, contexts = [], 0
        batch, contexts = batch + group, contexts + 1
    if batch:
        yield batch


def _score_batch(
    model: GPT, batch: Sequence[Continuation], cache_len: int, found: list[tuple[float, bool]]
) -> None:
    """Score a batch; `found` takes the results by number."""
    prefixes = list(dict.fromkeys(one.prefix for one in batch))
    contexts = _read_prefixes(model, prefixes, cache_len)
    row_of = {prefix: row for row, prefix in enumerate(prefixes)}
    ordered = sorted(batch, key=lambda one: len(one.inputs))
    most = max(1, CACHE_TOKENS // cache_len)
    while ordered:
        width = size_bucket(len(ordered[0].inputs), 4)
        count = min(most, max(1, LOGIT_ROWS // width))
        rows = [one for one in ordered[:count] if len(one.inputs) <= width]
        ordered = ordered[len(rows) :]
        sources = [row_of[one.prefix] for one in rows]
        _score_rows(model, rows, contexts, sources, width, found)


def _read_prefixes(model: GPT, prefixes: Sequence[tuple[int, ...]], cache_len: int) -> KVCache:
    """A KV cache with a row for each prefix, padded to one of a few shapes."""
    longest = max(map(len, prefixes))
    rows, length = size_bucket(len(prefixes)), min(size_bucket(longest, 16), cache_len)
    cache = model.new_cache(rows, cache_len)
    if not longest:
        return cache
    token_ids, counts = np.zeros((rows, length), "int32"), np.zeros(rows, "int32")
    for row, prefix in enumerate(prefixes):
        token_ids[row, : len(prefix)], counts[row] = prefix, len(prefix)
    return CompiledFunctions.of(model).prefill(cache, token_ids, np.zeros(rows, "int32"), counts)


def _score_rows(
    model: GPT,
    batch: Sequence[Continuation],
    contexts: KVCache,
    sources: Sequence[int],
    width: int,
    found: list[tuple[float, bool]],
) -> None:
    """Score continuations of up to `width` tokens, each after the row of `contexts` it follows."""
    functions, rows = ContinuationFunctions.of(model), size_bucket(len(batch))
    padding = [0] * (rows - len(batch))
    cache = functions.repeat(contexts, np.array([*sources, *padding], "int32"))
    token_ids, targets = (np.zeros((rows, width), "int32") for _ in range(2))
    starts, lengths = np.zeros(rows, "int32"), np.zeros(rows, "int32")
    for row, one in enumerate(batch):
        starts[row], lengths[row] = len(one.prefix), len(one.inputs)
        token_ids[row, : len(one.inputs)] = one.inputs
        targets[row, : len(one.inputs)] = one.targets
    parts = []
    step = min(width, max(1, LOGIT_ROWS // rows))
    for begin in range(0, width, step):
        part = slice(begin, begin + step)
        count = np.clip(lengths - begin, 0, step).astype("int32")
        start = (starts + np.minimum(lengths, begin)).astype("int32")
        cache, *scores = functions.score(cache, token_ids[:, part], start, count, targets[:, part])
        parts.append(backend.to_host(scores))
    for row, one in enumerate(batch):
        total = sum(float(totals[row]) for totals, _ in parts)
        found[one.number] = total, all(bool(greedy[row]) for _, greedy in parts)


def size_bucket(size: int, smallest: int = 1) -> int:
    """`size` rounded up to one of few: each at most half as large again as the one before.

    >>> [size_bucket(size) for size in (1, 3, 5, 7, 9, 13)]
    [1, 3, 6, 8, 12, 16]
    """
    step = smallest
    while step < size:
        if size <= step + step // 2:
            return step + step // 2
        step *= 2
    return step
