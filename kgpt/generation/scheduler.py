"""Who writes when: continuous batching over the rows of one `ModelRunner`.

Each `tick` lets waiting jobs in, reads a piece of the prompts of those that came, and writes a few
tokens in all that are under way; so texts join and leave between steps, and a long prompt does not
hold up the others. Single-threaded: `Engine` gives it a thread, `generate` simply runs it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kgpt.config import SamplingConfig
from kgpt.generation.beam_search import beam_search
from kgpt.generation.contrastive_search import contrastive_search
from kgpt.generation.decode import MAX_DECODE_STEPS
from kgpt.generation.runner import PREFILL_CHUNK_SIZES, MIN_CACHE_LEN, ModelRunner, Row, Token, sizes
from kgpt.generation.sequence import Request
from kgpt.generation.speculative import speculative
from kgpt.model.gpt import GPT

MAX_STEP_LATENCY_S = 0.03  # seconds between two looks at the outside, while somebody watches

OnTokens = Callable[["GenerationJob", list[Token], str | None], None]


@dataclass
class GenerationJob:
    """A request on its way. `finish` is "stop", "length", "cancelled", "deadline" or "error"."""

    request: Request
    on_tokens: OnTokens | None = None  # called with itself, new tokens, and at the end the reason
    watched: bool = True  # tokens are wanted as they come
    deadline: float | None = None  # by `time.monotonic`
    finish: str | None = None
    error: str | None = None
    ids: list[int] = field(default_factory=list)
    cached_tokens: int = 0  # tokens of the prompt that were remembered
    context_shifted: bool = False  # the text outgrew the model's context
    score: float | None = None  # of a beam
    cancelled: bool = False
    draft: GPT | Literal["prompt_lookup"] | None = None  # guess ahead with a model, or from the text

    @property
    def searches(self) -> bool:
        """Is it written by a search of its own, outside the common batch?"""
        sampling = self.request.sampling
        return bool(sampling.beam_size > 1 or sampling.contrastive_alpha or self.draft)

    def tell(self, tokens: list[Token], finish: str | None = None) -> None:
        self.ids += [token.id for token in tokens]
        self.finish = finish
        if self.on_tokens is not None and (tokens or finish):
            self.on_tokens(self, tokens, finish)


class Scheduler:
    """Runs jobs on one model.

    Args:
        model: the model.
        max_num_seqs: most texts written at once.
        context: most tokens remembered of a text; the model's `max_length` when not given.
        together: see `ModelRunner`.
    """

    def __init__(
        self, model: GPT, max_num_seqs: int = 8, context: int | None = None, together: bool = False
    ):
        self.model, self.max_num_seqs, self.context = model, max_num_seqs, context
        self.together = together
        self.batch = ModelRunner(model, 1, context, together)
        self.waiting: deque[GenerationJob] = deque()
        self.active: dict[int, GenerationJob] = {}  # by row
        self.searches: list[tuple[GenerationJob, Iterator[list[Token]]]] = []
        self._step_time = MAX_STEP_LATENCY_S

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.active or self.searches)

    def tick(self) -> None:
        """One round: let in, read, write, report."""
        self._drop_late()
        self._admit()
        reading = [row for row in self.active if not self.batch.rows[row].writing]
        if reading:
            # While others write, one piece at a time; alone, everybody's.
            self.batch.read(reading[:1] if self.batch.writing() else reading)
        self._write()
        self._search()

    def shapes(self) -> list[tuple[int, int]]:
        """Every (rows, places) that `warm` has to see before all requests find it compiled."""
        context = self.batch.context
        return [
            (r, p) for p in sizes(context, MIN_CACHE_LEN) for r in sizes(self.max_num_seqs, 1, step=4)
        ]

    def warm(self, rows: int, places: int) -> None:
        """Run each program once in one shape, so that no request pays for compiling it.

        On a batch of its own, which shares the programs and leaves texts under way alone.
        """
        batch = ModelRunner(self.model, 1, self.context)
        batch.resize([-1] * rows, places)
        for length in PREFILL_CHUNK_SIZES if rows == 1 else PREFILL_CHUNK_SIZES[-1:]:
            ids = [0] * min(length + 1, batch.places)
            request = Request(ids, SamplingConfig(temperature=0, max_tokens=2))
            few = range(min(rows, 2))  # both write together, then the first alone
            for row in few:
                batch.join(row, request)
            while reading := [row for row in few if not batch.rows[row].writing]:
                batch.read(reading)
            batch.write(1)
            if rows > 1:
                batch.rows[1] = Row()
                batch.write(1)
            batch.rows[0] = Row()

    def run(self) -> None:
        """Until everything is written."""
        while not self.idle:
            self.tick()

    def fail(self, error: str) -> None:
        """End everything under way with an error, and start afresh."""
        for job in [*self.active.values(), *(job for job, _ in self.searches)]:
            job.error = error
            job.tell([], "error")
        self.active, self.searches = {}, []
        self.batch = ModelRunner(self.model, 1, self.context, self.together)

    # -- in and out -------------------------------------------------------------------------------

    def _admit(self) -> None:
        while self.waiting:
            job = self.waiting[0]
            if job.searches:
                self.waiting.popleft()
                self.searches.append((job, self._start_search(job)))
                continue
            row = self._choose_row(job.request.ids)
            if row is None:
                return
            self.waiting.popleft()
            self.batch.join(row, job.request)
            job.cached_tokens = self.batch.rows[row].reused
            self.active[row] = job

    def _choose_row(self, ids: Sequence[int]) -> int | None:
        """The idle row that remembers most of `ids`; the oldest memory goes first otherwise."""
        idle = [row for row in range(len(self.batch.rows)) if row not in self.active]
        if not idle or (
            len(self.batch.rows) < self.max_num_seqs and not self._remembers(idle, ids)
        ):
            blank = [row for row in idle if not self.batch.rows[row].text]
            if blank:
                return blank[0]
            grown = self._grow()
            return grown if grown is not None else (min(idle) if idle else None)
        return max(idle, key=lambda row: self.batch.remembered(row, ids))

    def _remembers(self, rows: Sequence[int], ids: Sequence[int]) -> bool:
        return any(self.batch.remembered(row, ids) > 0 for row in rows)

    def _grow(self) -> int | None:
        """Make more rows, if there may be; the first of them."""
        held = len(self.batch.rows)
        wanted = len(self.active) + len(self.waiting)
        if held >= self.max_num_seqs or wanted <= held:
            return None
        size = next(
            size
            for size in sizes(self.max_num_seqs, 1, step=4)
            if size >= min(wanted, self.max_num_seqs)
        )
        self.batch.resize([*range(held), *[-1] * (size - held)], self.batch.places)
        return held

    def _drop_late(self) -> None:
        now = time.monotonic()
        for row, job in list(self.active.items()):
            if reason := _over(job, now):
                self._finish(row, job, [], reason)
        for job in [job for job in self.waiting if _over(job, now)]:
            self.waiting.remove(job)
            job.tell([], _over(job, now))
        for pair in [pair for pair in self.searches if _over(pair[0], now)]:
            self.searches.remove(pair)
            pair[0].tell([], _over(pair[0], now))

    def _finish(self, row: int, job: GenerationJob, tokens: list[Token], reason: str) -> None:
        job.context_shifted = self.batch.rows[row].shifted
        self.batch.leave(row)
        del self.active[row]
        job.tell(tokens, reason)

    # -- writing ----------------------------------------------------------------------------------

    def _write(self) -> None:
        for row, job in list(self.active.items()):  # one that may write nothing is done
            if self.batch.rows[row].writing and self.batch.rows[row].finish:
                self._finish(row, job, [], self.batch.rows[row].finish or "length")
        writing = self.batch.writing()
        if not writing:
            return
        started = time.perf_counter()
        steps = self._steps()
        written = self.batch.write(steps)
        most = max(map(len, written.values()))
        self._step_time = (time.perf_counter() - started) / max(1, most)
        for row, tokens in written.items():
            job, reason = self.active[row], self.batch.rows[row].finish
            if reason:
                self._finish(row, job, tokens, reason)
            else:
                job.tell(tokens)

    def _steps(self) -> int:
        """As many tokens as can be written before somebody would notice the wait."""
        if not (self.waiting or any(job.watched for job in self.active.values())):
            return MAX_DECODE_STEPS
        return max(1, min(MAX_DECODE_STEPS, int(MAX_STEP_LATENCY_S / max(self._step_time, 1e-6))))

    def _start_search(self, job: GenerationJob) -> Iterator[list[Token]]:
        request = job.request
        request.check(self.model.config.known_vocab_size)
        if request.sampling.beam_size > 1:
            return beam_search(self.model, request, self.context)
        if request.sampling.contrastive_alpha:
            return contrastive_search(self.model, request, self.context)
        draft = None if job.draft == "prompt_lookup" else job.draft
        return speculative(self.model, request, draft, self.context)

    def _search(self) -> None:
        """One step of each search."""
        for job, steps in list(self.searches):
            tokens = next(steps, None)
            if tokens is not None:
                job.tell(tokens)
                continue
            self.searches.remove((job, steps))
            ended = bool(job.ids) and job.ids[-1] in job.request.stop_ids
            job.tell([], "stop" if ended else "length")


def _over(job: GenerationJob, now: float) -> str | None:
    if job.cancelled:
        return "cancelled"
    return "deadline" if job.deadline is not None and now > job.deadline else None


def generate(
    model: GPT,
    requests: Sequence[Request],
    max_num_seqs: int = 16,
    draft: GPT | Literal["prompt_lookup"] | None = None,
) -> list[GenerationJob]:
    """Write a text for each request, many at a time; returns the jobs, done, in their order."""
    scheduler = Scheduler(model, max_num_seqs, together=True)
    jobs = [GenerationJob(request, watched=False, draft=draft) for request in requests]
    scheduler.waiting.extend(jobs)
    scheduler.run()
    return jobs
