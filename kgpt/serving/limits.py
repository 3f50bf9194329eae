"""Limits on request bodies: size, nesting depth and time to arrive.

They are checked before anything is parsed, whether or not the client announces a length.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.serving.errors import APIError

BODY_TIMEOUT_S = 30.0
MAX_DEPTH = 32  # nested lists and objects; valid requests have at most five
MAX_DRAINED_BYTES = 64 << 20  # of a rejected body
DRAIN_TIMEOUT_S = 5.0
# A string (closed or not), or a bracket. Possessive quantifiers: no input makes it backtrack.
JSON_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


class BodyLimitMiddleware:
    """ASGI middleware that reads the whole body, enforces the limits, and passes it on."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float = BODY_TIMEOUT_S):
        self.app, self.max_bytes, self.timeout = app, max_bytes, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "")
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read_body(receive, content_length)
        except TimeoutError:
            error = APIError(408, f"The body did not arrive within {self.timeout:g} s.")
            await error.response(scope["path"])(scope, receive, send)
            return
        except APIError as error:
            await error.response(scope["path"])(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _read_body(self, receive: Receive, content_length: str) -> bytes | None:
        """The whole body; None if the client disconnected."""
        too_large = APIError(
            413,
            f"The request is larger than the {self.max_bytes} bytes this server accepts.",
            code="request_too_large",
        )
        if content_length.isdigit() and int(content_length[:20]) > self.max_bytes:
            await drain_body(receive)
            raise too_large
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            more = message.get("more_body", False)
            if size > self.max_bytes:
                if more:
                    await drain_body(receive)
                raise too_large
        body = b"".join(parts)
        if json_depth(body, MAX_DEPTH) > MAX_DEPTH:
            raise APIError(400, f"The body is nested deeper than {MAX_DEPTH} levels.")
        return body


def json_depth(body: bytes, limit: int) -> int:
    """Nesting depth of the lists and objects of a JSON text; stops counting at `limit` + 1.

    >>> json_depth(b'{"a": [[1]], "b": "[[[["}', 32)
    3
    """
    deepest = level = 0
    for token in JSON_TOKEN.finditer(body):
        character = token[0][:1]
        if character in b"[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > limit:
                break
        elif character in b"]}":
            level -= 1
    return deepest


async def drain_body(receive: Receive) -> None:
    """Read and drop the rest of a rejected body, within limits.

    Closing a connection with unread data resets it, and the client may never see the response.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            size = 0
            while size <= MAX_DRAINED_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns `body` once, and then forwards to the connection."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
