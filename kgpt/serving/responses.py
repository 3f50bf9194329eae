"""From answers to HTTP responses: one JSON object, or a stream of server-sent events."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kgpt.protocol import GenerationChunk
from kgpt.serving.errors import Refusal, json_response
from kgpt.serving.formats import Shape, Written, usage_of
from kgpt.serving.request_stream import Answers, while_connected
from kgpt.serving.state import Service

SILENCE_S = 15.0  # after so long without text a comment is sent, so that nobody hangs up
log = logging.getLogger("kgpt.serving")


class Reply:
    """What the chunks of one reply have in common."""

    def __init__(self, service: Service, shape: Shape, answers: Answers, n: int):
        self.shape, self.answers, self.n = shape, answers, n
        self.texts = [Written() for _ in range(len(answers))]
        self.head = {
            "id": f"{shape.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": service.name,
            "system_fingerprint": service.fingerprint(),
        }

    async def whole(self, request: Request) -> Response:
        """The answer in one piece, once all of it is written."""
        await collect(request, self.answers, self.texts)
        choices = [self.shape.whole(i, text) for i, text in enumerate(self.texts)]
        body = {"object": self.shape.kind, **self.head, "choices": choices}
        return json_response(body | {"usage": usage_of(self.texts, self.n)})

    def stream(self, with_usage: bool) -> Response:
        """The answer as it is written; `with_usage` ends it with the count of tokens."""
        return EventStream(self._events(with_usage), self.answers)

    async def _events(self, with_usage: bool) -> AsyncIterator[str]:
        try:
            async for text in self._written(with_usage):
                yield text
        except Refusal as refusal:
            yield event(refusal.as_dict())
        except Exception:
            log.exception("a stream failed")
            yield event(Refusal(500, "The server failed at this text.").as_dict())

    async def _written(self, with_usage: bool) -> AsyncIterator[str]:
        extra = {"usage": None} if with_usage else {}
        for index in range(len(self.texts)):
            if (choice := self.shape.opening(index)) is not None:
                yield self._chunk([choice], extra)
        while self.answers.is_open:
            pieces = await self.answers.coming(SILENCE_S)
            yield "".join(self._part(piece, extra) for piece in pieces) or ": still at it\n\n"
        if with_usage:
            yield self._chunk([], {"usage": usage_of(self.texts, self.n)})
        yield "data: [DONE]\n\n"

    def _part(self, piece: GenerationChunk, extra: dict[str, Any]) -> str:
        check(piece)
        written = self.texts[piece.index]
        choice = self.shape.part(piece, written)
        written.add(piece)
        written.text, written.tokens = "", []  # sent, and needed no more
        if not (piece.text or piece.tokens or piece.finish_reason):
            return ""
        return self._chunk([choice], extra)

    def _chunk(self, choices: list[dict[str, Any]], extra: dict[str, Any]) -> str:
        return event({"object": self.shape.chunk_kind, **self.head, "choices": choices} | extra)


class EventStream(StreamingResponse):
    """Server-sent events; whatever way it ends, nothing goes on being written."""

    def __init__(self, events: AsyncIterator[str], answers: Answers):
        super().__init__(events, media_type="text/event-stream")
        self.headers["X-Accel-Buffering"] = "no"  # or some proxies collect the stream
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.answers.close()


async def collect(request: Request, answers: Answers, texts: list[Written]) -> None:
    """Wait for all of `texts`. A client that goes away ends them."""
    async with while_connected(request, answers):
        while answers.is_open:
            for piece in await answers.coming():
                check(piece)
                texts[piece.index].add(piece)
    if all(text.finish_reason == "deadline" and not text.text for text in texts):
        raise Refusal(
            429,
            "The server was too busy to begin with this answer in time; try again later.",
            code="deadline",
            retry_after=10,
        )


def check(piece: GenerationChunk) -> None:
    """Raise a `Refusal` if the text did not end well."""
    if piece.finish_reason == "cancelled":
        raise Refusal(503, "The server ends, and the answer was cut off.", code="draining")
    if piece.finish_reason == "error":
        log.error("the engine failed: %s", piece.error)
        raise Refusal(500, "The engine failed at this text; the server's log says how.")


def event(content: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"
