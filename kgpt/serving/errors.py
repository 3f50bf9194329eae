"""Refusals as answers: one sentence in the shape of the OpenAI API, never a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.config import did_you_mean
from kgpt.errors import KgptError, QueueFull

SIMPLE_PATHS = "/api/gpt/"  # these answer {"success", "text" or "texts", "error"}
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

log = logging.getLogger("kgpt.serving")


class Refusal(Exception):
    """A request that is not done: an HTTP status and a sentence.

    Args:
        param: the field of the request that is to blame.
        code: a short word for programs, as `context_length_exceeded`.
        retry_after: seconds after which asking again may help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def as_dict(self) -> dict[str, Any]:
        """The OpenAI shape: {"error": {"message", "type", "param", "code"}}."""
        kind = KINDS.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, path: str) -> Response:
        """The answer to a request for `path`."""
        body = self.as_dict()
        if path.startswith(SIMPLE_PATHS):
            texts = "texts" if "batch" in path else "text"
            body = {"success": False, texts: None, "error": self.message}
        return json_response(body, self.status, self.headers)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON in ASCII, so that any string can be sent, lone surrogates too."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


class Defects:
    """ASGI middleware: what nobody foresaw goes to the log, and the client gets a sentence."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            if begun or scope["type"] != "http":
                raise
            log.exception("%s %r failed", scope["method"], scope["path"])
            refusal = Refusal(500, "The server failed at this request; its log says where.")
            await refusal.response(scope["path"])(scope, receive, send)


def install(app: FastAPI, names: Sequence[str], retry_after) -> None:
    """Make `app` answer what is wrong with a request as a `Refusal`.

    Args:
        names: all field names of requests, to suggest the one that was meant.
        retry_after: a function that estimates when a full queue has room, in seconds.
    """

    def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, QueueFull):
            error = Refusal(
                429,
                "The server is busy and its queue is full; try again later.",
                code="queue_full",
                retry_after=retry_after(),
            )
        elif isinstance(error, KgptError):
            error = Refusal(400, str(error))
        elif isinstance(error, RequestValidationError):
            error = _invalid(error.errors(), names)
        elif isinstance(error, HTTPException):
            error = Refusal(error.status_code, _plain(error, request))
        assert isinstance(error, Refusal)
        return error.response(request.url.path)

    for kind in (Refusal, KgptError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, refused)


def _plain(error: HTTPException, request: Request) -> str:
    path = repr(request.url.path[:100])
    sentences = {
        400: "The body could not be read; it must be JSON in UTF-8.",
        404: f"There is nothing at {path}; GET /docs lists what there is.",
        405: f"{path} does not take {request.method}; GET /docs says what it takes.",
    }
    return sentences.get(error.status_code, f"{error.detail}.")


def _invalid(failures: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Refusal:
    """The most telling of pydantic's failures, as a sentence that names the field."""
    # Of a field with several allowed types, all are reported; those of the wrong type say least.
    failure = next((f for f in failures if not f["type"].endswith("_type")), failures[0])
    # Parts of a location that are no names of fields name the alternatives of a union.
    path = [part for part in failure["loc"] if isinstance(part, int) or part in names]
    field = ".".join(map(str, path)) or None
    reason = failure["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if failure["type"] == "json_invalid":
        return Refusal(400, f"The body is not JSON: {failure['ctx']['error']}.")
    if failure["type"] == "extra_forbidden":
        unknown = str(failure["loc"][-1])[:100]
        hint = did_you_mean(unknown, names) or "GET /docs lists the fields."
        return Refusal(400, f"Unknown field {unknown!r}; {hint}", param=unknown)
    if failure["type"] == "value_error":
        return Refusal(400, f"{field}: {reason}." if field else f"{reason}.", param=field)
    if failure["type"] == "missing":
        return Refusal(400, f"{field or 'The body'} is missing from the request.", param=field)
    if field is None:
        return Refusal(400, "The body must be a JSON object, sent as application/json.")
    return Refusal(400, f"{field} {reason}, not {_short(failure)}.", param=field)


def _short(failure: Mapping[str, Any]) -> str:
    """The refused value, cut to a length that can be read (and is safe to send back)."""
    value = failure.get("input")
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."
