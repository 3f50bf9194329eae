"""The prompts of one HTTP request on their way through the model, without generation."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from kgpt.errors import OutOfMemoryError
from kgpt.generation.forward_job import ForwardJob, ForwardTask
from kgpt.protocol import GenerationChunk
from kgpt.serving.errors import APIError
from kgpt.serving.request_stream import cancel_on_disconnect
from kgpt.serving.responses import raise_if_failed
from kgpt.serving.state import ServerState

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter


class ForwardCall:
    """Submits prompts to the engine, all of them or none; they are cancelled together.

    Raises:
        APIError: there are too many. QueueFull: too many requests wait. UsageError: one of the
            prompts is too long.
    """

    def __init__(
        self,
        state: ServerState,
        prompts: Sequence[Sequence[int]],
        task: ForwardTask,
        top_logprobs: int = 0,
        adapter: LoadedAdapter | None = None,
    ):
        self._state, self._loop = state, asyncio.get_running_loop()
        self._ended: asyncio.Queue[ForwardJob] = asyncio.Queue()
        limit = state.config.max_num_seqs + state.config.max_queue
        if len(prompts) > limit:
            message = (
                f"{len(prompts)} prompts are more than the {limit} this server accepts at once"
            )
            raise APIError(400, f"{message}; send fewer at once.")
        deadline = time.monotonic() + state.config.timeout
        self.jobs = [
            ForwardJob(prompt, task, top_logprobs, self._on_end, deadline, adapter)
            for prompt in prompts
        ]
        state.served.submit_forward(self.jobs)
        state.active_streams.add(self)

    def _on_end(self, job: ForwardJob) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._ended.put_nowait, job)

    async def results(self) -> list[Any]:
        """The result of each prompt.

        Raises:
            APIError: the engine failed, was shut down, or was too busy.
        """
        for _ in self.jobs:
            job = await self._ended.get()
            if job.ended == "deadline":
                raise APIError(
                    429,
                    "The server was too busy to run this prompt in time; try again later.",
                    code="deadline",
                    retry_after=10,
                )
            if job.ended in ("cancelled", "error"):
                out_of_memory = isinstance(job.error, OutOfMemoryError)
                raise_if_failed(
                    GenerationChunk(
                        finish_reason=job.ended, error=str(job.error), out_of_memory=out_of_memory
                    )
                )
        return [job.result for job in self.jobs]

    def cancel(self) -> None:
        """Cancel what is unfinished."""
        for job in self.jobs:
            job.cancelled = True
        self._state.active_streams.discard(self)

    close = cancel


async def run_forward(
    request: Request,
    state: ServerState,
    prompts: Sequence[Sequence[int]],
    task: ForwardTask,
    top_logprobs: int = 0,
    adapter: LoadedAdapter | None = None,
) -> list[Any]:
    """The results of `prompts`, which end if the client disconnects; see `ForwardCall`."""
    call = ForwardCall(state, prompts, task, top_logprobs, adapter)
    async with cancel_on_disconnect(request, call):
        return await call.results()
