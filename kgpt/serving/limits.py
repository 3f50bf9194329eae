"""What a request body may be: so many bytes, so deep, within so many seconds.

Checked before anything is parsed, whether or not the client says how much it will send.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.serving.errors import Refusal

BODY_TIMEOUT_S = 30.0
MAX_DEPTH = 32  # levels of lists and objects; requests need five
DISCARDED = 64 << 20  # bytes of a refused body read so that its sender gets to see the refusal
DISCARD_TIMEOUT_S = 5.0
# A string (closed or not), or a bracket. Possessive, so that no input makes it go back.
JSON_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


class BodyLimit:
    """ASGI middleware that reads the body, refuses what is too much, and hands on the rest."""

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float = BODY_TIMEOUT_S):
        self.app, self.max_bytes, self.timeout = app, max_bytes, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self.timeout):
                body = await self._read(receive, Headers(scope=scope).get("content-length", ""))
        except TimeoutError:
            refusal = Refusal(408, f"The body did not arrive within {self.timeout:g} s.")
            await refusal.response(scope["path"])(scope, receive, send)
            return
        except Refusal as refusal:
            await refusal.response(scope["path"])(scope, receive, send)
            return
        if body is not None:
            await self.app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive, announced: str) -> bytes | None:
        """The whole body; None if the client went away."""
        too_large = Refusal(
            413,
            f"The request is larger than the {self.max_bytes} bytes this server takes.",
            code="request_too_large",
        )
        if announced.isdigit() and int(announced[:20]) > self.max_bytes:
            await discard(receive)
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
                    await discard(receive)
                raise too_large
        body = b"".join(parts)
        if depth(body, MAX_DEPTH) > MAX_DEPTH:
            raise Refusal(400, f"The body is nested deeper than {MAX_DEPTH} levels.")
        return body


def depth(body: bytes, enough: int) -> int:
    """How deep the lists and objects of a JSON text are nested; no further than just past `enough`.

    >>> depth(b'{"a": [[1]], "b": "[[[["}', 32)
    3
    """
    deepest = level = 0
    for token in JSON_TOKEN.finditer(body):
        character = token[0][:1]
        if character in b"[{":
            level += 1
            deepest = max(deepest, level)
            if deepest > enough:
                break
        elif character in b"]}":
            level -= 1
    return deepest


async def discard(receive: Receive) -> None:
    """Read the rest of a refused body, within limits.

    A connection closed on unread data is reset, and the client may never see the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_TIMEOUT_S):
            size = 0
            while size <= DISCARDED:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once, then what the connection gives."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
