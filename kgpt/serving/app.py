"""The FastAPI application: endpoints, middleware, and the OpenAPI schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import kgpt
from kgpt.serving import (
    classify,
    embeddings,
    lora_adapters,
    ollama,
    pages,
    responses_api,
    routes,
    tokenization,
)
from kgpt.serving.body import field_names, known_fields
from kgpt.serving.errors import ExceptionMiddleware, add_error_handlers, json_response
from kgpt.serving.ignored_fields import HEADER, IgnoredFieldsMiddleware
from kgpt.serving.limits import BodyLimitMiddleware
from kgpt.serving.metrics import RequestCounterMiddleware
from kgpt.serving.responses import LEFT_OUT_HEADER
from kgpt.serving.routes import StateDep
from kgpt.serving.security import ApiKeys, AuthMiddleware, ContentTypeMiddleware
from kgpt.serving.state import ServerState

ERROR_DESCRIPTIONS = {
    400: "The request is invalid; the message says why.",
    401: "The API key is missing or wrong.",
    403: "The request has a foreign Host or Origin header.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The request is too large.",
    429: "The queue is full; retry after the seconds in Retry-After.",
    503: "The model is being warmed up, or the server is shutting down.",
}
EXPOSED_HEADERS = (HEADER, LEFT_OUT_HEADER, "Retry-After")  # to web pages of other origins
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def build_app(state: ServerState, keys: ApiKeys | None = None, local_only: bool = True) -> FastAPI:
    """The ASGI application that serves `state`. Its start-up starts loading the model.

    Args:
        keys: the API keys; without them every client is accepted.
        local_only: accept only requests addressed to this machine's loopback names.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.start_loading()
        yield
        state.close()

    app = FastAPI(
        title="kgpt",
        version=kgpt.__version__,
        description="Text generation with your own GPT through the OpenAI API.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.server = state
    for part in (routes, responses_api, embeddings, classify, tokenization, ollama, pages):
        app.include_router(part.router)
    if state.config.runtime_lora_updating:
        app.include_router(lora_adapters.router)
    app.add_api_route("/health", health, summary="Status of the server")
    app.add_api_route("/metrics", metrics, summary="Prometheus metrics")
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    add_error_handlers(app, field_names(), state.retry_after)
    paths = frozenset(openapi(app)["paths"]) | {"/", "/docs", "/openapi.json"}
    app.add_middleware(ExceptionMiddleware)
    app.add_middleware(
        IgnoredFieldsMiddleware,
        metrics=state.metrics,
        known=known_fields(),
        strict=state.config.strict,
    )
    app.add_middleware(BodyLimitMiddleware, max_bytes=state.config.max_body)
    app.add_middleware(ContentTypeMiddleware)
    origins = state.config.cors_origin
    app.add_middleware(AuthMiddleware, keys=keys, local_only=local_only, origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=EXPOSED_HEADERS,
        )
    app.add_middleware(RequestCounterMiddleware, metrics=state.metrics, paths=paths)
    return app


async def health(state: StateDep) -> Response:
    """`{status, progress, model}`; 503 unless the status is `ready`."""
    progress = list(state.progress) if state.progress else None
    body = {"status": state.status, "progress": progress, "model": state.name}
    return json_response(body, 200 if state.status == "ready" else 503)


async def metrics(state: StateDep) -> Response:
    """Latencies, token counts and queue lengths in Prometheus's text format."""
    return Response(state.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI schema, with the errors as they are sent (FastAPI's own would be 422)."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = ERROR_SCHEMA
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                for status, description in ERROR_DESCRIPTIONS.items():
                    operation["responses"][str(status)] = {
                        "description": description,
                        "content": content,
                    }
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
        app.openapi_schema = schema
    return app.openapi_schema
