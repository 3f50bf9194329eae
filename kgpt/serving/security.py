"""Who may speak to the server: API keys, loopback, and pages of other sites.

A server without keys listens on loopback alone. There any page in the user's browser could reach
it, so requests that name another host (DNS rebinding) or come from another site are refused.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.errors import UsageError
from kgpt.serving.errors import Refusal
from kgpt.serving.limits import discard

OPEN_PATHS = ("/", "/docs", "/health", "/openapi.json")  # need no key: they say nothing secret
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class ApiKeys:
    """The keys that open a server; kept as digests and compared in constant time."""

    def __init__(self, keys: list[str]):
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def read(cls, path: Path) -> ApiKeys:
        """Read a file of keys, one a line; empty lines are skipped."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise UsageError(f"The API key file {path} cannot be read: {reason}.") from None
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise UsageError(f"The API key file {path} holds no key; write one a line.")
        if any(not key.isascii() or not key.isprintable() or " " in key for key in keys):
            raise UsageError(f"A key in {path} has a character that no HTTP header can carry.")
        return cls(keys)

    def accept(self, header: str | None) -> bool:
        """True for `Bearer KEY` with one of the keys. Every key is compared, whichever fits."""
        scheme, _, key = (header or "").partition(" ")
        given = hashlib.sha256(key.strip().encode()).digest()
        fits = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(fits)


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """ASGI middleware: lets requests in, and adds headers to what goes out.

    Args:
        keys: None when the server has none.
        local_only: refuse requests that do not name this machine, or come from another site.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, local_only: bool):
        self.app, self.keys, self.local_only = app, keys, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = [pair for pair in HEADERS.items() if pair[0] not in present]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        refusal = self._check(scope["path"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
            return
        await discard(receive)
        response = refusal.response(scope["path"])
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send_with_headers)

    def _check(self, path: str, headers: Headers) -> Refusal | None:
        host = headers.get("host", "")
        if self.local_only and host_name(host) not in LOCAL_NAMES:
            return Refusal(
                403,
                f"This server answers to {', '.join(LOCAL_NAMES)} only, "
                f"not to the host {host[:100]!r}; start it with --api-key-file for other names.",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if self.local_only and origin is not None and urlsplit(origin).netloc != host:
            return Refusal(403, "Pages of other sites may not use this server.", code="cross_site")
        if (
            self.keys
            and path not in OPEN_PATHS
            and not self.keys.accept(headers.get("authorization"))
        ):
            return Refusal(
                401,
                "A valid API key is needed; send it as the header `Authorization: Bearer KEY`.",
                code="invalid_api_key",
            )
        return None


def host_name(host: str) -> str:
    """The name in a Host header, without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000"), host_name("example.com")
    ('localhost', '::1', 'example.com')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
