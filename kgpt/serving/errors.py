"""HTTP errors: one sentence in the error format of the OpenAI API, never a traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kgpt.errors import KgptError, QueueFull

SIMPLE_PATHS = "/api/gpt/"  # endpoints that answer {"success", "text" or "texts", "error"}
OLLAMA_PATHS = "/api/"  # the others: {"error"}
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

log = logging.getLogger("kgpt.serving")


class APIError(Exception):
    """An error response: an HTTP status and a sentence.

    Args:
        param: the field of the request that is wrong.
        code: a machine-readable code, such as `context_length_exceeded`.
        retry_after: seconds after which a retry may succeed.
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
        """OpenAI's error format: {"error": {"message", "type", "param", "code"}}."""
        error_type = ERROR_TYPES.get(self.status, "invalid_request_error")
        error_type = "server_error" if self.status >= 500 else error_type
        return {
            "error": {
                "message": self.message,
                "type": error_type,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, path: str) -> Response:
        """The response to a request for `path`, in the format of that endpoint."""
        body = self.as_dict()
        if path.startswith(SIMPLE_PATHS):
            text_field = "texts" if "batch" in path else "text"
            body = {"success": False, text_field: None, "error": self.message}
        elif path.startswith(OLLAMA_PATHS):
            body = {"error": self.message}
        return json_response(body, self.status, self.headers)


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON response in ASCII, which can carry any string, lone surrogates included."""
    return Response(json.dumps(content), status, headers, media_type="application/json")


class ExceptionMiddleware:
    """ASGI middleware: logs unexpected exceptions and answers them with a plain 500."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response_started = False

        async def tracked_send(message: Message) -> None:
            nonlocal response_started
            response_started = True
            await send(message)

        try:
            await self.app(scope, receive, tracked_send)
        except Exception:
            if response_started or scope["type"] != "http":
                raise
            log.exception("%s %r failed", scope["method"], scope["path"])
            error = APIError(500, "The server failed at this request; see the server's log.")
            await error.response(scope["path"])(scope, receive, send)


def add_error_handlers(
    app: FastAPI, field_names: Collection[str], retry_after: Callable[[], int]
) -> None:
    """Make `app` answer every kind of invalid request with an `APIError`.

    Args:
        field_names: all field names of requests, with which an error names its place.
        retry_after: estimates when a full queue accepts requests again, in seconds.
    """

    def handle(request: Request, error: Exception) -> Response:
        if isinstance(error, QueueFull):
            error = APIError(
                429,
                "The server is busy and its queue is full; try again later.",
                code="queue_full",
                retry_after=retry_after(),
            )
        elif isinstance(error, KgptError):
            error = APIError(400, str(error))
        elif isinstance(error, RequestValidationError):
            error = _validation_error(error.errors(), field_names)
        elif isinstance(error, HTTPException):
            error = APIError(error.status_code, _http_message(error, request))
        assert isinstance(error, APIError)
        return error.response(request.url.path)

    for kind in (APIError, KgptError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, handle)


def _http_message(error: HTTPException, request: Request) -> str:
    path = repr(request.url.path[:100])
    messages = {
        400: "The body could not be parsed; it must be JSON in UTF-8.",
        404: f"There is no endpoint {path}; GET /docs lists them.",
        405: f"{path} does not accept {request.method}; GET /docs says what it accepts.",
    }
    return messages.get(error.status_code, f"{error.detail}.")


def _validation_error(failures: Sequence[Mapping[str, Any]], names: Collection[str]) -> APIError:
    """The most specific of pydantic's failures, as a sentence that names the field."""
    # For a union, pydantic reports each alternative; type mismatches are the least specific.
    failure = next((f for f in failures if not f["type"].endswith("_type")), failures[0])
    # Other parts of a location name the alternatives of a union.
    path = [part for part in failure["loc"] if isinstance(part, int) or part in names]
    field = ".".join(map(str, path)) or None
    reason = failure["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if failure["type"] == "json_invalid":
        return APIError(400, f"The body is not JSON: {failure['ctx']['error']}.")
    if failure["type"] == "refused_field":
        param = ".".join(map(str, [*path, failure["ctx"]["field"][:100]]))
        return APIError(400, reason if reason.endswith("?") else f"{reason}.", param=param)
    if failure["type"] == "value_error":
        return APIError(400, f"{field}: {reason}." if field else f"{reason}.", param=field)
    if failure["type"] == "missing":
        return APIError(400, f"{field or 'The body'} is missing from the request.", param=field)
    if field is None:
        return APIError(400, "The body must be a JSON object, sent as application/json.")
    return APIError(400, f"{field} {reason}, not {_abbreviate(failure)}.", param=field)


def _abbreviate(failure: Mapping[str, Any]) -> str:
    """The rejected value, shortened so that it is safe to send back."""
    value = failure.get("input")
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 100 else f"{text[:97]}..."
