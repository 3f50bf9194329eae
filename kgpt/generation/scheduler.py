"""Continuous-batching scheduler: which requests occupy the slots of one `ModelRunner`, and when.

Each `step` admits queued jobs, prefills a chunk of new prompts and decodes a few tokens in every
running sequence; so sequences join and leave between steps, and a long prompt does not delay the
others. Single-threaded: `Engine` gives it a thread, `generate` simply runs it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError
from kgpt.generation.beam_search import beam_search
from kgpt.generation.contrastive_search import contrastive_search
from kgpt.generation.decode import MAX_DECODE_STEPS
from kgpt.generation.generated_token import GeneratedToken
from kgpt.generation.runner import ModelRunner
from kgpt.generation.sequence import Request
from kgpt.generation.shapes import MIN_CACHE_LEN, PREFILL_CHUNK_SIZES, shape_buckets
from kgpt.generation.slot import Sequence as Slot
from kgpt.generation.speculative import DraftSource, speculative_decode
from kgpt.model.gpt import GPT
from kgpt.out_of_memory import is_out_of_memory

MAX_STEP_LATENCY_S = 0.03  # between two looks at the queue, while a client streams or waits

OnTokens = Callable[["GenerationJob", list[GeneratedToken], str | None], None]


@dataclass
class GenerationJob:
    """A request under way.

    Attributes:
        on_tokens: called with the job, new tokens, and at the end the finish reason.
        stream: tokens are wanted as they come; otherwise in larger portions.
        deadline: by `time.monotonic`.
        finish_reason: "stop", "length", "cancelled", "deadline" or "error".
        cached_tokens: prompt tokens found in the KV cache.
        context_shifted: the sequence outgrew the model's context.
        draft_model: a model, or "prompt_lookup", that speculative decoding drafts with.
    """

    request: Request
    on_tokens: OnTokens | None = None
    stream: bool = True
    deadline: float | None = None
    finish_reason: str | None = None
    error: KgptError | None = None
    token_ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0
    context_shifted: bool = False
    cancelled: bool = False
    draft_model: DraftSource | None = None

    @property
    def is_search(self) -> bool:
        """Whether it runs by itself, outside the batch."""
        sampling = self.request.sampling
        if self.request.grammar:  # whose sequences are not drafted
            return False
        return bool(sampling.beam_size > 1 or sampling.contrastive_alpha or self.draft_model)

    def emit(self, tokens: list[GeneratedToken], finish_reason: str | None = None) -> None:
        self.token_ids += [token.id for token in tokens]
        self.finish_reason = finish_reason
        if self.on_tokens is not None and (tokens or finish_reason):
            self.on_tokens(self, tokens, finish_reason)

    def interruption(self, now: float) -> str | None:
        """The finish reason of a job that must not go on."""
        if self.cancelled:
            return "cancelled"
        return "deadline" if self.deadline is not None and now > self.deadline else None


class Scheduler:
    """Runs jobs on one model.

    Args:
        model: the model.
        max_num_seqs: sequences decoded at once, at most.
        max_context: tokens kept of each sequence; the model's `max_length` when not given.
        batched_prefill: see `ModelRunner`.
    """

    def __init__(
        self,
        model: GPT,
        max_num_seqs: int = 8,
        max_context: int | None = None,
        batched_prefill: bool = False,
    ):
        self.model, self.max_num_seqs, self.max_context = model, max_num_seqs, max_context
        self.batched_prefill = batched_prefill
        self.runner = ModelRunner(model, 1, max_context, batched_prefill)
        self.waiting: deque[GenerationJob] = deque()
        self.active: dict[int, GenerationJob] = {}  # by slot
        self.searches: list[tuple[GenerationJob, Iterator[list[GeneratedToken]]]] = []
        self._token_time = MAX_STEP_LATENCY_S

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.active or self.searches)

    @property
    def jobs(self) -> list[GenerationJob]:
        """All jobs that have not ended."""
        return [*self.waiting, *self.active.values(), *(job for job, _ in self.searches)]

    def step(self) -> None:
        """One round: admit, prefill, decode, report."""
        self._drop_interrupted()
        self._admit()
        pending = [slot for slot in self.active if not self.runner.sequences[slot].is_decoding]
        if pending:
            # While others decode, one chunk at a time; otherwise everybody's.
            self.runner.prefill(pending[:1] if self.runner.decoding_slots() else pending)
        self._decode()
        self._step_searches()

    def run(self) -> None:
        """Step until every job has ended."""
        while not self.idle:
            self.step()

    def fail(self, error: KgptError) -> None:
        """End everything under way with an error, and start afresh."""
        for job in [*self.active.values(), *(job for job, _ in self.searches)]:
            job.error = error
            job.emit([], "error")
        self.active, self.searches = {}, []
        self.runner.cache.clear()  # first, so that there is memory for another
        self.runner = ModelRunner(self.model, 1, self.max_context, self.batched_prefill)

    # -- warm-up ------------------------------------------------------------------------------

    def warm_up_shapes(self) -> list[tuple[int, int]]:
        """Every (slots, cache length) that `warm_up` compiles for."""
        return [
            (num_slots, cache_len)
            for cache_len in shape_buckets(self.runner.max_context, MIN_CACHE_LEN)
            for num_slots in shape_buckets(self.max_num_seqs, 1, factor=4)
        ]

    def warm_up(self, num_slots: int, cache_len: int) -> None:
        """Run each program once in one shape, so that no request waits for its compilation.

        Uses a runner of its own, which shares the model's compiled functions, so that sequences
        under way are not touched.
        """
        runner = ModelRunner(self.model, 1, self.max_context)
        runner.resize([-1] * num_slots, cache_len)
        for length in PREFILL_CHUNK_SIZES if num_slots == 1 else PREFILL_CHUNK_SIZES[-1:]:
            ids = [0] * min(length + 1, runner.cache_len)
            request = Request(ids, SamplingConfig(temperature=0, max_tokens=2))
            slots = range(min(num_slots, 2))  # both decode together, then the first alone
            for slot in slots:
                runner.add(slot, request)
            while pending := [i for i in slots if not runner.sequences[i].is_decoding]:
                runner.prefill(pending)
            runner.decode(1)
            if num_slots > 1:
                runner.sequences[1] = Slot()
                runner.decode(1)
            runner.sequences[0] = Slot()
        runner.warm_up_decode()

    # -- admission ----------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting:
            job = self.waiting[0]
            if job.is_search:
                self.waiting.popleft()
                self.searches.append((job, self._start_search(job)))
                continue
            slot = self._choose_slot(job.request)
            if slot is None:
                return
            self.waiting.popleft()
            self.runner.add(slot, job.request)
            job.cached_tokens = self.runner.sequences[slot].num_cached_tokens
            self.active[slot] = job

    def _choose_slot(self, request: Request) -> int | None:
        """The idle slot with the longest cached prefix; without any, the least recently used.

        Slots are added before a cache is overwritten. None if all slots are busy.
        """
        sequences = self.runner.sequences
        idle = [slot for slot in range(len(sequences)) if slot not in self.active]
        prefix = {slot: self.runner.cached_prefix_length(slot, request) for slot in idle}
        slot = max(idle, key=lambda i: (prefix[i], -sequences[i].last_used), default=None)
        if slot is not None and (prefix[slot] or not sequences[slot].token_ids):
            return slot
        grown = self._grow()
        return slot if grown is None else grown

    def _grow(self) -> int | None:
        """Add slots, if there may be more and jobs to fill them; returns the first of them."""
        num_slots = len(self.runner.sequences)
        wanted = min(len(self.active) + len(self.waiting), self.max_num_seqs)
        if wanted <= num_slots:
            return None
        sizes = shape_buckets(self.max_num_seqs, 1, factor=4)
        size = next(size for size in sizes if size >= wanted)
        sources = [*range(num_slots), *[-1] * (size - num_slots)]
        try:
            self.runner.resize(sources, self.runner.cache_len)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.max_num_seqs = num_slots  # the others wait
            return None
        return num_slots

    def _drop_interrupted(self) -> None:
        """End the jobs that were cancelled or are late."""
        now = time.monotonic()
        for slot, job in list(self.active.items()):
            if reason := job.interruption(now):
                self._finish(slot, job, [], reason)
        for job in [job for job in self.waiting if job.interruption(now)]:
            self.waiting.remove(job)
            job.emit([], job.interruption(now))
        for search in [search for search in self.searches if search[0].interruption(now)]:
            self.searches.remove(search)
            search[0].emit([], search[0].interruption(now))

    def _finish(
        self, slot: int, job: GenerationJob, tokens: list[GeneratedToken], reason: str
    ) -> None:
        sequence = self.runner.sequences[slot]
        job.context_shifted, job.error = sequence.context_shifted, sequence.error
        self.runner.release(slot)
        del self.active[slot]
        job.emit(tokens, reason)

    # -- decoding -----------------------------------------------------------------------------

    def _decode(self) -> None:
        for slot, job in list(self.active.items()):  # one without tokens to generate has ended
            sequence = self.runner.sequences[slot]
            if sequence.is_decoding and sequence.finish_reason:
                self._finish(slot, job, [], sequence.finish_reason)
        if not self.runner.decoding_slots():
            return
        started = time.perf_counter()
        generated = self.runner.decode(self._num_steps())
        longest = max(map(len, generated.values()))
        self._token_time = (time.perf_counter() - started) / max(1, longest)
        for slot, tokens in generated.items():
            job, reason = self.active[slot], self.runner.sequences[slot].finish_reason
            if reason:
                self._finish(slot, job, tokens, reason)
            else:
                job.emit(tokens)

    def _num_steps(self) -> int:
        """As many decode steps as fit `MAX_STEP_LATENCY_S`, if anybody would notice the wait."""
        if not (self.waiting or any(job.stream for job in self.active.values())):
            return MAX_DECODE_STEPS
        fitting = int(MAX_STEP_LATENCY_S / max(self._token_time, 1e-6))
        return max(1, min(MAX_DECODE_STEPS, fitting))

    def _start_search(self, job: GenerationJob) -> Iterator[list[GeneratedToken]]:
        request = job.request
        request.check(self.model.config.known_vocab_size)
        if request.sampling.beam_size > 1:
            return beam_search(self.model, request, self.max_context)
        if request.sampling.contrastive_alpha:
            return contrastive_search(self.model, request, self.max_context)
        assert job.draft_model is not None
        return speculative_decode(self.model, request, job.draft_model, self.max_context)

    def _step_searches(self) -> None:
        for job, steps in list(self.searches):
            tokens = next(steps, None)
            if tokens is not None:
                job.emit(tokens)
                continue
            self.searches.remove((job, steps))
            is_stop = bool(job.token_ids) and job.token_ids[-1] in job.request.stop_ids
            job.emit([], "stop" if is_stop else "length")


def generate(
    model: GPT,
    requests: Sequence[Request],
    max_num_seqs: int = 16,
    draft_model: DraftSource | None = None,
) -> list[GenerationJob]:
    """Run every request to its end, many at a time; returns their jobs in the same order."""
    scheduler = Scheduler(model, max_num_seqs, batched_prefill=True)
    jobs = [GenerationJob(request, stream=False, draft_model=draft_model) for request in requests]
    scheduler.waiting.extend(jobs)
    scheduler.run()
    return jobs
