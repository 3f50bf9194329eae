"""The fields of a request that were ignored: named in a response header, counted in a metric."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.serving.metrics import Metrics

HEADER = "X-Kgpt-Ignored"
MAX_NAMES = 20  # in the header; "..." stands for the others
MAX_NAME_LENGTH = 80


@dataclass
class RequestFields:
    """What is known of the fields of the request at hand.

    Attributes:
        strict: unknown fields are refused.
        ignored: paths of the ignored fields, such as `messages.0.annotations`.
    """

    strict: bool = False
    ignored: Sequence[str] = ()


current_request: ContextVar[RequestFields] = ContextVar("current_request")


def header_value(paths: Sequence[str]) -> str:
    """The paths as a comma-separated list in ASCII, percent-encoded; an empty name is "".

    >>> header_value(["user", "messages.0.größe"])
    'user, messages.0.gr%C3%B6%C3%9Fe'
    """
    names = [
        quote(path[:MAX_NAME_LENGTH], safe="", errors="replace")[: 3 * MAX_NAME_LENGTH] or '""'
        for path in paths[:MAX_NAMES]
    ]
    return ", ".join(names + ["..."] * (len(paths) > MAX_NAMES))


class IgnoredFieldsMiddleware:
    """ASGI middleware that reports which fields of a request were ignored.

    Args:
        known: names of fields that have a label of their own in the metric.
        strict: refuse unknown fields instead.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, known: Collection[str], strict: bool):
        self.app, self.metrics, self.known, self.strict = app, metrics, known, strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = RequestFields(self.strict)
        current_request.set(fields)

        async def send_with_header(message: Message) -> None:
            if message["type"] == "http.response.start" and fields.ignored:
                self._count(fields.ignored)
                header = (HEADER.lower().encode(), header_value(fields.ignored).encode())
                message = {**message, "headers": [*message["headers"], header]}
            await send(message)

        await self.app(scope, receive, send_with_header)

    def _count(self, paths: Sequence[str]) -> None:
        """Count each field once a request. Unknown names share one label."""
        names = {path.rpartition(".")[2] for path in paths}
        for name in {name if name in self.known else "other" for name in names}:
            self.metrics.ignored_fields.labels(name).inc()
