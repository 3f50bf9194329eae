"""The engine: one thread that owns the model, and a bounded queue in front of it."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from kgpt.errors import KgptError, QueueFull, UsageError
from kgpt.generation.adapters import LoadedAdapter
from kgpt.generation.completion import GenerationFailed
from kgpt.generation.forward_job import ForwardJob
from kgpt.generation.forward_queue import ForwardQueue
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.loading import LESS_MEMORY
from kgpt.generation.scheduler import GenerationJob, OnTokens, Scheduler
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import DraftSource
from kgpt.model.gpt import GPT
from kgpt.out_of_memory import out_of_memory_as_kgpt
from kgpt.protocol import EngineStats


class Engine:
    """Continuous batching for any number of callers. Knows only token ids.

    Args:
        model: used by the engine's thread alone from now on.
        max_num_seqs: sequences decoded at once.
        max_queue: requests that may wait besides `max_num_seqs` active ones; one more is refused
            with `QueueFull`.
        max_context: tokens kept of each sequence.
        draft_model: drafts for every request; see `generation/speculative.py`.
    """

    def __init__(
        self,
        model: GPT,
        max_num_seqs: int = 8,
        max_queue: int = 64,
        max_context: int | None = None,
        draft_model: DraftSource | None = None,
    ):
        self.max_queue = max_queue
        self.draft_model = draft_model
        self._stats = EngineStats(max_num_seqs)
        self._scheduler = Scheduler(model, max_num_seqs, max_context)
        self._max_context = self._scheduler.runner.max_context
        self._forward = ForwardQueue(model, max_num_seqs, self._max_context)
        self._vocab_size = model.config.known_vocab_size
        self._arrived: deque[GenerationJob] = deque()
        self._forward_arrived: deque[ForwardJob] = deque()
        self._tasks: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="kgpt-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        *,
        stream: bool = True,
        timeout: float | None = None,
    ) -> GenerationJob:
        """Queue a request. `on_tokens` is called in the engine's thread.

        Args:
            stream: tokens are wanted as they come; otherwise in larger portions.
            timeout: seconds after which it ends with "deadline".

        Raises:
            QueueFull: too many requests wait. UsageError: the request cannot be run.
        """
        request.check(self._vocab_size)
        deadline = None if timeout is None else time.monotonic() + timeout
        job = GenerationJob(
            request, self._counting(on_tokens), stream, deadline, draft_model=self.draft_model
        )
        with self._wake:
            self._admit([request.prompt_ids], [request.adapter])
            self._arrived.append(job)
            self._wake.notify()
        return job

    def submit_forward(self, jobs: Sequence[ForwardJob]) -> None:
        """Queue prompts whose log-probabilities or embeddings are wanted: all of them, or none.

        Raises:
            QueueFull: too many requests wait. UsageError: a prompt cannot be run.
        """
        for job in jobs:
            job.check(self._vocab_size, self._max_context)
        with self._wake:
            self._admit([job.token_ids for job in jobs], [job.adapter for job in jobs])
            self._forward_arrived.extend(jobs)
            self._wake.notify()

    def _admit(
        self, prompts: Sequence[Sequence[int]], adapters: Sequence[LoadedAdapter | None]
    ) -> None:
        """Count prompts as accepted, or raise why they are not."""
        self._check_open()
        for adapter in adapters:
            if adapter is not None and not adapter.is_loaded:
                raise UsageError(f"The adapter {adapter.name!r} has been unloaded.")
        if self.active + self.queued + len(prompts) > self.capacity:
            raise QueueFull(f"More than {self.capacity} requests at once; try again later.")
        self._stats.requests += len(prompts)
        self._stats.prompt_tokens += sum(map(len, prompts))

    def _check_open(self) -> None:
        if self._closing:
            raise UsageError("The engine is shutting down.")

    def adapters_in_use(self) -> set[LoadedAdapter]:
        """The adapters of all requests that will go on; for the engine's thread."""
        with self._wake:
            jobs = [*self._arrived, *self._scheduler.jobs]
            forward = [*self._forward_arrived, *self._forward.jobs]
        adapters = [job.request.adapter for job in jobs if not job.cancelled]
        adapters += [job.adapter for job in forward if not job.cancelled]
        return {adapter for adapter in adapters if adapter is not None}

    def cancel(self, job: GenerationJob | ForwardJob) -> None:
        """End a job at the next step."""
        job.cancelled = True
        with self._wake:
            self._wake.notify()

    @property
    def queued(self) -> int:
        arrived = len(self._arrived) + len(self._forward_arrived)
        return arrived + len(self._scheduler.waiting) + len(self._forward.waiting)

    @property
    def active(self) -> int:
        """Requests that are run; one that is cancelled gives its place up at the next step."""
        searches = [job for job, _ in list(self._scheduler.searches)]
        jobs: list[GenerationJob | ForwardJob] = [*list(self._scheduler.active.values()), *searches]
        jobs += list(self._forward.running)
        return sum(not job.cancelled for job in jobs)

    @property
    def capacity(self) -> int:
        """Requests that are accepted at once."""
        return self._stats.max_num_seqs + self.max_queue

    def stats(self) -> EngineStats:
        self._stats.active, self._stats.queued = self.active, self.queued
        return self._stats

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` in the engine's thread between steps, and wait for it."""
        done = threading.Event()
        failures: list[BaseException] = []

        def task() -> None:
            try:
                function()
            except BaseException as error:
                failures.append(error)
            finally:
                done.set()

        with self._wake:
            self._check_open()
            self._tasks.append(task)
            self._wake.notify()
        done.wait()
        if failures:
            raise failures[0]

    def warm_up(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Compile what requests will need: each number of slots, each size of a prefill chunk.

        Args:
            progress: called with (done, total).

        Raises:
            OutOfMemoryError: the largest of them does not fit.
        """
        shapes = self._scheduler.warm_up_shapes()
        for done, (num_slots, cache_len) in enumerate(shapes):
            if progress is not None:
                progress(done, len(shapes))
            with out_of_memory_as_kgpt(LESS_MEMORY):
                self.call(functools.partial(self._scheduler.warm_up, num_slots, cache_len))
        if progress is not None:
            progress(len(shapes), len(shapes))

    def close(self, drain: bool = False) -> None:
        """Stop; with `drain`, after all requests have ended."""
        with self._wake:
            self._closing = True
            if not drain:
                for job in [*self._arrived, *self._scheduler.jobs]:
                    job.cancelled = True
                for forward in [*self._forward_arrived, *self._forward.jobs]:
                    forward.cancelled = True
            self._wake.notify()
        self._thread.join()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._idle and not self._tasks:
                    if self._closing:
                        return
                    self._wake.wait()
                self._scheduler.waiting.extend(self._arrived)
                self._arrived.clear()
                self._forward.waiting.extend(self._forward_arrived)
                self._forward_arrived.clear()
                tasks = list(self._tasks)
                self._tasks.clear()
            for task in tasks:
                task()
            for part in (self._scheduler, self._forward):
                if (failure := _step(part)) is not None:
                    part.fail(failure)

    @property
    def _idle(self) -> bool:
        has_arrivals = bool(self._arrived or self._forward_arrived)
        return not has_arrivals and self._scheduler.idle and self._forward.idle

    def _counting(self, on_tokens: OnTokens | None) -> OnTokens:
        def count(
            job: GenerationJob, tokens: list[GeneratedToken], finish_reason: str | None
        ) -> None:
            self._stats.generation_tokens += len(tokens)
            if finish_reason is not None:
                self._stats.cached_tokens += job.cached_tokens
            if on_tokens is not None:
                on_tokens(job, tokens, finish_reason)

        return count


def _step(part: Scheduler | ForwardQueue) -> KgptError | None:
    """One step; returns its failure without a traceback, which would keep tensors alive."""
    try:
        with out_of_memory_as_kgpt(LESS_MEMORY):
            part.step()
    except KgptError as error:
        return type(error)(str(error))
    except Exception as error:
        return GenerationFailed(f"{type(error).__name__}: {error}")
    return None
