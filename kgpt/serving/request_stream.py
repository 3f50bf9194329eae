"""The chunks of one HTTP request, on their way from the engine's thread to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from starlette.requests import Request

from kgpt.config import SamplingConfig
from kgpt.protocol import GenerationChunk, Usage
from kgpt.serving.errors import APIError
from kgpt.serving.filters import FilterChain
from kgpt.serving.state import ServerState

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter
    from kgpt.generation.grammar import CompiledGrammar
    from kgpt.generation.handle import Handle


class Cancellable(Protocol):
    """What a request has under way in the engine."""

    def cancel(self) -> None:
        """Cancel what is unfinished."""

    def close(self) -> None:
        """Cancel what is unfinished, and expect nothing more."""


class RequestStream:
    """All completions of one request: submitted, streamed and cancelled together.

    While `is_open`, `next_chunks` returns new chunks of any of the completions. `adapter` generates
    them; None is the model itself.
    """

    def __init__(self, state: ServerState, adapter: LoadedAdapter | None = None):
        self._state, self._adapter = state, adapter
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[GenerationChunk] = asyncio.Queue()
        self._handles: list[Handle] = []
        self._filters: list[FilterChain] = []
        self._awaiting_first_token: set[int] = set()
        self._num_open = 0
        self._n = 1
        self._usages: dict[int, Usage] = {}  # by completion
        self._arrival = time.monotonic()

    async def submit(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        n: int = 1,
        top_logprobs: int | None = None,
        stream: bool = False,
        grammar: CompiledGrammar | None = None,
        keep_special: frozenset[str] = frozenset(),
        receipts: bool = False,
    ) -> None:
        """Submit n completions of each prompt to the engine: all of them, or `QueueFull`.

        The completions of one prompt have consecutive seeds and consecutive indices.

        Args:
            stream: the client wants chunks as soon as possible, at some cost in throughput.
            grammar: what each completion must follow.
            keep_special: special tokens that are part of the text.
            receipts: the last chunk of each has a receipt.
        """
        config, generator = self._state.config, self._state.generator
        self._start(len(prompts), n)
        check_logprobs(self._state, top_logprobs)
        check_receipts(self._state, receipts)
        seeds = [None if sampling.seed is None else (sampling.seed + i) % 2**31 for i in range(n)]
        self._state.active_streams.add(self)

        def submit_all() -> None:
            for prompt in prompts:
                for seed in seeds:
                    handle = generator.submit(
                        prompt or "",
                        sampling.model_copy(update={"seed": seed}),
                        self._listener(len(self._handles)),
                        top_logprobs=top_logprobs,
                        timeout=config.timeout,
                        stream=stream,
                        grammar=grammar,
                        keep_special=keep_special,
                        adapter=self._adapter,
                        receipt=receipts,
                    )
                    self._handles.append(handle)

        try:
            await self._state.run_with_tokenizer(submit_all)
        except BaseException:
            self.cancel()
            raise
        self._state.metrics.adapter_completions(self._adapter, len(self))
        self._num_open = len(self)
        self._awaiting_first_token = set(range(len(self)))

    def generate_nothing(self, prompts: Sequence[Sequence[int]], n: int = 1) -> None:
        """End n completions of each prompt before their first token."""
        self._start(len(prompts), n)
        self._num_open = len(self)
        for index in range(len(self)):
            usage = Usage(len(prompts[index // n]), 0)
            chunk = GenerationChunk(finish_reason="length", usage=usage, index=index)
            self._queue.put_nowait(chunk)

    def _start(self, num_prompts: int, n: int) -> None:
        config = self._state.config
        num_completions, capacity = num_prompts * n, config.max_num_seqs + config.max_queue
        if num_completions > capacity:
            raise APIError(
                400,
                f"{num_completions} completions are more than the {capacity} this server accepts "
                "at once.",
                param="n",
            )
        self._n = n
        self._filters = [FilterChain(self._state.filters) for _ in range(num_completions)]

    @property
    def model_name(self) -> str:
        """The name in the API of the model or the adapter."""
        return self._state.name_of(self._adapter)

    @property
    def is_open(self) -> bool:
        """True until the last chunk of every completion has been returned."""
        return self._num_open > 0

    def __len__(self) -> int:
        """The number of completions."""
        return len(self._filters)

    def usage(self) -> Usage:
        """Token counts of all completions; a prompt with n completions counts once."""
        usages = self._usages.values()
        prompts = [usage for index, usage in self._usages.items() if index % self._n == 0]
        return Usage(
            sum(usage.prompt_tokens for usage in prompts),
            sum(usage.completion_tokens for usage in usages),
            sum(usage.cached_tokens for usage in prompts),
        )

    def _listener(self, index: int) -> Callable[[GenerationChunk], None]:
        """The callback for completion `index`; the engine's thread calls it."""

        def on_chunk(chunk: GenerationChunk) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(self._queue.put_nowait, replace(chunk, index=index))

        return on_chunk

    def cancel(self) -> None:
        """Cancel what is unfinished; its slots are free after the engine's next step."""
        for handle in self._handles:
            handle.cancel()
        self._state.active_streams.discard(self)

    def close(self) -> None:
        """Cancel what is unfinished, and return no more chunks."""
        self.cancel()
        if self._num_open:
            self._state.metrics.completions.labels("cancelled").inc(self._num_open)
            self._num_open = 0

    async def next_chunks(self, timeout: float | None = None) -> list[GenerationChunk]:
        """All chunks at hand, at least one; none only if `timeout` seconds pass without one.

        Call it only while `is_open`.
        """
        chunks = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                chunks.append(await self._queue.get())
        while not self._queue.empty():
            chunks.append(self._queue.get_nowait())
        return [self._process(chunk) for chunk in chunks]

    def _process(self, chunk: GenerationChunk) -> GenerationChunk:
        """Record metrics and usage of a chunk, and filter its text."""
        metrics, elapsed = self._state.metrics, time.monotonic() - self._arrival
        is_last = chunk.finish_reason is not None
        if chunk.index in self._awaiting_first_token and (chunk.text or chunk.tokens or is_last):
            self._awaiting_first_token.discard(chunk.index)
            metrics.time_to_first_token.observe(elapsed)
        if chunk.usage is not None:
            self._usages[chunk.index] = chunk.usage
        if chunk.finish_reason is not None:
            self._num_open -= 1
            if not self._num_open:
                self._state.active_streams.discard(self)
            metrics.observe_completion(chunk.finish_reason, elapsed)
        if chunk.receipt is not None:  # the API tells no folders
            adapter = self._adapter.name if self._adapter else None
            named = chunk.receipt | {"model": self._state.name, "adapter": adapter}
            chunk = replace(chunk, receipt=named)
        return replace(chunk, text=self._filters[chunk.index].feed(chunk.text, last=is_last))


def check_logprobs(state: ServerState, top_logprobs: int | None) -> None:
    """Reject a request for log-probabilities where output is filtered."""
    if state.filters and top_logprobs is not None:
        raise APIError(
            400, "This server filters its output, so logprobs are not available; leave it out."
        )


def check_receipts(state: ServerState, wanted: bool) -> None:
    """Reject a request for receipts where output is filtered, so that no replay can equal it."""
    if state.filters and wanted:
        raise APIError(
            400, "This server filters its output, so it gives no kgpt_receipt; leave it out."
        )


@contextlib.asynccontextmanager
async def cancel_on_disconnect(request: Request, stream: Cancellable) -> AsyncIterator[None]:
    """Cancel `stream` if the client disconnects, and close it when the block is left."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        stream.cancel()  # its last chunks end the block

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        stream.close()
