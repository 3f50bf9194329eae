"""Prompts scored, embedded and classified through an engine, for callers that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kgpt.generation.adapters import LoadedAdapter
from kgpt.generation.completion import GenerationFailed
from kgpt.generation.engine import Engine
from kgpt.generation.forward_job import ForwardJob, ForwardTask, PromptLogprobs
from kgpt.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt and the log-probabilities that the model gives its tokens.

    Attributes:
        token_ids: of the prompt, L of them.
        tokens: their texts.
        logprobs: log-probability of each token after those before it; None for the first.
        top_logprobs: the most likely tokens in each place as (id, log-probability), best first;
            None for the first.
    """

    token_ids: list[int]
    tokens: list[str]
    logprobs: list[float | None]
    top_logprobs: list[list[tuple[int, float]] | None]

    @property
    def total(self) -> float:
        """Log-probability of the tokens after the first, given the first."""
        return sum(logprob for logprob in self.logprobs if logprob is not None)


def score(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    top_logprobs: int = 0,
    adapter: LoadedAdapter | None = None,
) -> list[ScoredPrompt]:
    """See `TextGenerator.score`."""
    results = _run(engine, prompts, "logprobs", top_logprobs, adapter)
    return [_scored(tokenizer, ids, result) for ids, result in zip(prompts, results, strict=True)]


def embed(
    engine: Engine, prompts: Sequence[Sequence[int]], adapter: LoadedAdapter | None = None
) -> np.ndarray:
    """See `TextGenerator.embed`."""
    return np.stack(_run(engine, prompts, "embedding", adapter=adapter))


def classify(engine: Engine, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """The probabilities (N, labels) that a classifier gives the labels of each prompt."""
    return np.stack(_run(engine, prompts, "classification"))


def _scored(tokenizer: Tokenizer, ids: Sequence[int], result: PromptLogprobs) -> ScoredPrompt:
    pairs = zip(result.top_ids.tolist(), result.top_logprobs.tolist(), strict=True)
    top = [list(zip(*pair, strict=True)) for pair in pairs]
    tokens = [tokenizer.decode([token], continues=True) for token in ids]
    return ScoredPrompt(list(ids), tokens, [None, *result.logprobs.tolist()], [None, *top[:-1]])


def _run(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    task: ForwardTask,
    top_logprobs: int = 0,
    adapter: LoadedAdapter | None = None,
) -> list[Any]:
    """The results of all prompts, submitted as many at a time as the engine accepts."""
    jobs: list[ForwardJob] = []
    for first in range(0, len(prompts), engine.capacity):
        batch = prompts[first : first + engine.capacity]
        ended = threading.Semaphore(0)
        submitted = len(jobs)
        jobs += [
            ForwardJob(ids, task, top_logprobs, _releases(ended), adapter=adapter) for ids in batch
        ]
        engine.submit_forward(jobs[submitted:])
        for _ in batch:
            ended.acquire()
    for job in jobs:
        if job.ended != "done":
            raise job.error or GenerationFailed("The engine was closed before it was done.")
    return [job.result for job in jobs]


def _releases(ended: threading.Semaphore) -> Callable[[ForwardJob], None]:
    return lambda _: ended.release()
