"""Access control: API keys, and protection of a loopback server from web pages.

A server without keys listens on loopback only. Any web page in the user's browser can reach it
there, so requests with a foreign Host (DNS rebinding) or Origin header are rejected.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.errors import UsageError
from kgpt.serving.errors import APIError
from kgpt.serving.limits import drain_body

PUBLIC_PATHS = ("/", "/docs", "/health", "/openapi.json")  # need no key: nothing is secret
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
SECURITY_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class ApiKeys:
    """The API keys of a server, kept as digests and compared in constant time."""

    def __init__(self, keys: list[str]):
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def from_file(cls, path: Path) -> ApiKeys:
        """Read a file with one key per line; empty lines are skipped.

        Raises:
            UsageError: the file cannot be read, or has no valid key.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"The API key file {path} cannot be read: {reason}.") from None
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise UsageError(f"The API key file {path} has no key; write one per line.")
        if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
            raise UsageError(f"A key in {path} has a character that HTTP headers cannot carry.")
        return cls(keys)

    def accepts(self, header: str | None) -> bool:
        """True for `Bearer KEY` with one of the keys; all are compared, in constant time."""
        scheme, _, key = (header or "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach: localhost, 127.0.0.0/8, ::1.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class AuthMiddleware:
    """ASGI middleware: rejects unauthorized requests, and adds security headers to responses.

    Args:
        keys: the valid API keys; None if the server has none.
        local_only: reject requests with a foreign Host or Origin header.
        origins: origins that are not foreign; "*" is any.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys | None,
        local_only: bool,
        origins: Collection[str] = (),
    ):
        self.app, self.keys, self.local_only, self.origins = app, keys, local_only, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                existing = {name.lower() for name, _ in message["headers"]}
                extra = [pair for pair in SECURITY_HEADERS.items() if pair[0] not in existing]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        error = self._check(scope["path"], Headers(scope=scope))
        if error is None:
            await self.app(scope, receive, send_with_headers)
            return
        await drain_body(receive)
        response = error.response(scope["path"])
        if error.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> APIError | None:
        host = headers.get("host", "")
        if self.local_only and host_name(host) not in LOOPBACK_NAMES:
            return APIError(
                403,
                f"This server accepts the host names {', '.join(LOOPBACK_NAMES)} only, "
                f"not {host[:100]!r}; start it with --api-key-file for others.",
                code="wrong_host",
            )
        if self.local_only and self._is_foreign(headers.get("origin"), host):
            return APIError(
                403,
                "Web pages of other sites may not use this server; start it with --cors-origin "
                "to allow one.",
                code="cross_site",
            )
        if (
            self.keys
            and path not in PUBLIC_PATHS
            and not self.keys.accepts(headers.get("authorization"))
        ):
            return APIError(
                401,
                "A valid API key is required; send it as the header `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
        return None

    def _is_foreign(self, origin: str | None, host: str) -> bool:
        if origin is None or origin in self.origins or "*" in self.origins:
            return False
        return urlsplit(origin).netloc != host


class ContentTypeMiddleware:
    """ASGI middleware: a body of no type, or of the type that `curl -d` sends, is read as JSON.

    Only where there is no Origin header: a browser would send such a body for a page of another
    site without asking the server first.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if "origin" not in headers and kind in ("", "application/x-www-form-urlencoded"):
                headers["content-type"] = "application/json"
        await self.app(scope, receive, send)


def host_name(host: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000"), host_name("example.com")
    ('localhost', '::1', 'example.com')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
