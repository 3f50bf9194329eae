"""Which prompts are run through the model together, and when: the queue of `ForwardJob`s."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from kgpt.errors import KgptError
from kgpt.generation.forward import MAX_BATCH_SIZE, run_batch
from kgpt.generation.forward_job import ForwardJob
from kgpt.model.gpt import GPT


class ForwardQueue:
    """Runs forward jobs in batches, a chunk a `step`. Single-threaded; `Engine` gives it a thread.

    Args:
        model: the model.
        max_num_seqs: prompts of one batch, at most.
        max_context: tokens of one prompt, at most.
    """

    def __init__(self, model: GPT, max_num_seqs: int, max_context: int):
        self.model, self.max_context = model, max_context
        self.max_batch_size = min(max_num_seqs, MAX_BATCH_SIZE)
        self.waiting: deque[ForwardJob] = deque()
        self.running: list[ForwardJob] = []
        self._chunks: Iterator[None] | None = None

    @property
    def jobs(self) -> list[ForwardJob]:
        """All jobs that have not ended."""
        return [*self.waiting, *self.running]

    @property
    def idle(self) -> bool:
        return not (self.waiting or self.running)

    def step(self) -> None:
        """Drop what was cancelled or is late, and compute the next chunk of the batch."""
        self._drop_interrupted()
        if not self.running and self.waiting:
            self._start_batch()
        if self._chunks is None:
            return
        if next(self._chunks, self) is self:
            jobs, self.running, self._chunks = self.running, [], None
            for job in jobs:
                job.end("done")

    def fail(self, error: KgptError) -> None:
        """End the batch under way with an error."""
        jobs, self.running, self._chunks = self.running, [], None
        for job in jobs:
            job.error = error
            job.end("error")

    def _start_batch(self) -> None:
        """The first job that waits, and those like it that are nearest to it in length."""
        first = self.waiting[0]
        alike = [job for job in self.waiting if job.is_like(first)]
        alike.sort(key=lambda job: abs(len(job.token_ids) - len(first.token_ids)))
        self.running = alike[: self.max_batch_size]
        for job in self.running:
            self.waiting.remove(job)
        self._chunks = run_batch(
            self.model, list(self.running), self.max_batch_size, self.max_context
        )

    def _drop_interrupted(self) -> None:
        now = time.monotonic()
        for job in self.jobs:
            is_late = job.deadline is not None and now > job.deadline
            if job.cancelled or is_late:
                (self.running if job in self.running else self.waiting).remove(job)
                job.end("cancelled" if job.cancelled else "deadline")
        if not self.running:
            self._chunks = None
