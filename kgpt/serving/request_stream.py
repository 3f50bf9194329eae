"""The texts of one request, on their way from the engine's thread to the client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.requests import Request

from kgpt.config import SamplingConfig
from kgpt.protocol import GenerationChunk
from kgpt.serving.errors import Refusal
from kgpt.serving.filters import FilterChain
from kgpt.serving.state import Service

if TYPE_CHECKING:
    from kgpt.generation.generator import Handle


class Answers:
    """All texts of one request: begun together, read as they come, cancelled together.

    While `is_open`, `coming` gives the pieces of whichever text is written on.
    """

    def __init__(self, service: Service):
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, GenerationChunk]] = asyncio.Queue()
        self._handles: list[Handle] = []
        self._filters: list[FilterChain] = []
        self._waiting: set[int] = set()  # texts of which nothing came yet
        self._open = 0
        self._begun = time.monotonic()

    async def begin(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        n: int = 1,
        top_logprobs: int | None = None,
        stream: bool = False,
    ) -> None:
        """Put n texts for each prompt in the engine's queue: all of them, or `QueueFull`.

        The texts of one prompt have consecutive seeds, and consecutive numbers.

        Args:
            stream: the client wants chunks as tokens come.
        """
        config, engine = self._service.config, self._service.engine
        places = config.max_num_seqs + config.max_queue
        if len(prompts) * n > places:
            raise Refusal(
                400,
                f"{len(prompts) * n} texts are more than the {places} this server takes at once.",
                param="n",
            )
        if self._service.filters and top_logprobs is not None:
            raise Refusal(400, "This server filters its answers, so it tells no logprobs.")
        seeds = [None if sampling.seed is None else (sampling.seed + i) % 2**31 for i in range(n)]
        self._service.running.add(self)

        def submit() -> None:
            for prompt in prompts:
                for seed in seeds:
                    handle = engine.submit(
                        prompt or "",
                        sampling.model_copy(update={"seed": seed}),
                        self._listener(len(self._handles)),
                        top_logprobs=top_logprobs,
                        timeout=config.timeout,
                        stream=stream,
                    )
                    self._handles.append(handle)

        try:
            self._filters = [FilterChain(self._service.filters) for _ in range(len(prompts) * n)]
            await self._service.tokenizing(submit)
        except BaseException:
            self.cancel()
            raise
        self._open = len(self._handles)
        self._waiting = set(range(self._open))

    @property
    def is_open(self) -> bool:
        """True until the last piece of each text was read."""
        return self._open > 0

    def __len__(self) -> int:
        return len(self._handles)

    def _listener(self, index: int) -> Callable[[GenerationChunk], None]:
        def on_event(event: GenerationChunk) -> None:  # in the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        return on_event

    def cancel(self) -> None:
        """End the texts still being written; their slots are free after the engine's next step."""
        for handle in self._handles:
            handle.cancel()
        self._service.running.discard(self)

    def close(self) -> None:
        """Cancel, for nobody will read on."""
        self.cancel()
        if self._open:
            self._service.metrics.finished.labels("cancelled").inc(self._open)
            self._open = 0

    async def coming(self, timeout: float | None = None) -> list[GenerationChunk]:
        """The next pieces, as soon as there is one; none if `timeout` seconds pass without.

        To be called while `is_open`.
        """
        events = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                events.append(await self._events.get())
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return [self._received(index, event) for index, event in events]

    def _received(self, index: int, event: GenerationChunk) -> GenerationChunk:
        metrics, elapsed = self._service.metrics, time.monotonic() - self._begun
        if index in self._waiting and (event.text or event.tokens or event.finish_reason):
            self._waiting.discard(index)
            metrics.first_token.observe(elapsed)
        if event.finish_reason is not None:
            self._open -= 1
            if not self._open:
                self._service.running.discard(self)
            metrics.ended(event.finish_reason, elapsed)
        is_last = event.finish_reason is not None
        return replace(event, text=self._filters[index].feed(event.text, last=is_last), index=index)


@contextlib.asynccontextmanager
async def while_connected(request: Request, answers: Answers) -> AsyncIterator[None]:
    """Cancel `answers` when the client goes away, or the block ends for another reason."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answers.cancel()  # its last events end the block

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        answers.close()
