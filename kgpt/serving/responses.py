"""From chunks to an HTTP response: one JSON object, or a stream of server-sent events."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kgpt.protocol import GenerationChunk, merge_chunks
from kgpt.serving.errors import APIError, json_response
from kgpt.serving.formats import ResponseFormat, usage_body
from kgpt.serving.request_stream import RequestStream, cancel_on_disconnect
from kgpt.serving.state import ServerState

SSE_KEEPALIVE_S = 15.0  # silence after which a comment is sent, so that no proxy times out
LEFT_OUT_HEADER = "X-Kgpt-Left-Out"
log = logging.getLogger("kgpt.serving")


class ResponseBuilder:
    """Builds the response to one request, whole or streamed."""

    def __init__(self, state: ServerState, format: ResponseFormat, stream: RequestStream):
        self.format, self.stream = format, stream
        self.common = {
            "id": f"{format.id_prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": stream.model_name,
            "system_fingerprint": state.fingerprint(),
        }

    async def json(self, request: Request) -> Response:
        """One JSON object, once all completions are finished."""
        completions = await collect(request, self.stream)
        choices = [self.format.choice(completion) for completion in completions]
        body = {"object": self.format.object_type, **self.common, "choices": choices}
        return json_response(body | {"usage": usage_body(self.stream.usage())})

    def events(self, include_usage: bool) -> Response:
        """Server-sent events; `include_usage` adds a last chunk with the token counts."""
        events = failures_as_text(
            self._events(include_usage), lambda error: sse_event(error.as_dict())
        )
        return EventStreamResponse(events, self.stream)

    async def _events(self, include_usage: bool) -> AsyncIterator[str]:
        extra = {"usage": None} if include_usage else {}
        for index in range(len(self.stream)):
            if (choice := self.format.first_choice(index)) is not None:
                yield self._event([choice], extra)
        while self.stream.is_open:
            chunks = await self.stream.next_chunks(SSE_KEEPALIVE_S)
            yield "".join(self._chunk_event(chunk, extra) for chunk in chunks) or ": keep-alive\n\n"
        if include_usage:
            yield self._event([], {"usage": usage_body(self.stream.usage())})
        yield "data: [DONE]\n\n"

    def _chunk_event(self, chunk: GenerationChunk, extra: dict[str, Any]) -> str:
        """The events of one chunk."""
        raise_if_failed(chunk)
        return "".join(self._event([choice], extra) for choice in self.format.deltas(chunk))

    def _event(self, choices: list[dict[str, Any]], extra: dict[str, Any]) -> str:
        head = {"object": self.format.chunk_type, **self.common, "choices": choices}
        return sse_event(head | extra)


async def failures_as_text(
    parts: AsyncIterator[str], as_text: Callable[[APIError], str]
) -> AsyncIterator[str]:
    """The parts of a stream; a failure ends it with a text of its own."""
    try:
        async for part in parts:
            yield part
    except APIError as error:
        yield as_text(error)
    except Exception:
        log.exception("a stream failed")
        yield as_text(APIError(500, "The server failed at this completion."))


def tell_left_out(response: Response, left_out: int) -> Response:
    """`response` with a header that counts the messages left out of its prompt, if any were."""
    if left_out:
        response.headers[LEFT_OUT_HEADER] = str(left_out)
    return response


class EventStreamResponse(StreamingResponse):
    """Events as they come; however the response ends, its completions are cancelled."""

    def __init__(
        self,
        events: AsyncIterator[str],
        stream: RequestStream,
        media_type: str = "text/event-stream",
    ):
        super().__init__(events, media_type=media_type)
        self.headers["X-Accel-Buffering"] = "no"  # tells nginx not to buffer the stream
        self.stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.stream.close()


async def collect(request: Request, stream: RequestStream) -> list[GenerationChunk]:
    """Wait for all completions of `stream`, each merged into one chunk.

    Raises:
        APIError: a completion failed, or none got a slot in time.
    """
    chunks: list[list[GenerationChunk]] = [[] for _ in range(len(stream))]
    async with cancel_on_disconnect(request, stream):
        while stream.is_open:
            for chunk in await stream.next_chunks():
                raise_if_failed(chunk)
                chunks[chunk.index].append(chunk)
    completions = [merge_chunks(parts) for parts in chunks]
    if all(one.finish_reason == "deadline" and not one.text for one in completions):
        raise APIError(
            429,
            "The server was too busy to start this completion in time; try again later.",
            code="deadline",
            retry_after=10,
        )
    return completions


def raise_if_failed(chunk: GenerationChunk) -> None:
    """Raise an `APIError` if the completion was cancelled or failed."""
    if chunk.finish_reason == "cancelled":
        raise APIError(
            503, "The server is shutting down, and the completion was cut off.", code="draining"
        )
    if chunk.finish_reason == "error":
        if chunk.no_token_allowed:
            raise APIError(400, f"{chunk.error}", code="no_token_allowed")
        log.error("the engine failed: %s", chunk.error)
        if chunk.out_of_memory:
            raise APIError(503, f"{chunk.error}", code="out_of_memory")
        raise APIError(500, "The engine failed at this completion; see the server's log.")


def sse_event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
