"""The application: its endpoints, what guards them, and how they describe themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

import kgpt
from kgpt.serving import errors, pages, routes
from kgpt.serving.errors import json_response
from kgpt.serving.limits import BodyLimit
from kgpt.serving.metrics import CountRequests
from kgpt.serving.routes import Served
from kgpt.serving.schemas import FIELD_NAMES
from kgpt.serving.security import ApiKeys, Gate
from kgpt.serving.state import Service

REFUSALS = {
    400: "The request asks for something that cannot be done.",
    401: "The API key is missing or wrong.",
    403: "The request names another host, or comes from another site.",
    404: "There is no such model.",
    408: "The body did not arrive in time.",
    413: "The request is too large.",
    429: "The queue is full; Retry-After says when to try again.",
    503: "The model is being warmed up, or the server is about to end.",
}
ERROR = {
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


def build(service: Service, keys: ApiKeys | None = None, local_only: bool = True) -> FastAPI:
    """The ASGI application that serves `service`. Its start begins to load the model.

    Args:
        keys: the API keys; without them everybody who can connect is let in.
        local_only: take requests to this machine's own names alone.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.starting.start()
        yield
        service.close()

    app = FastAPI(
        title="kgpt",
        version=kgpt.__version__,
        description="Text from your own GPT, by the OpenAI API.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(routes.router)
    app.include_router(pages.router)
    app.add_api_route("/health", health, summary="Whether the server is ready")
    app.add_api_route("/metrics", metrics, summary="Figures for Prometheus")
    app.openapi = lambda: openapi(app)  # type: ignore[method-assign]
    errors.install(app, FIELD_NAMES, service.retry_after)
    paths = frozenset(openapi(app)["paths"]) | {"/", "/docs", "/openapi.json"}
    app.add_middleware(errors.Defects)
    app.add_middleware(BodyLimit, max_bytes=service.config.max_body)
    app.add_middleware(Gate, keys=keys, local_only=local_only)
    app.add_middleware(CountRequests, metrics=service.metrics, paths=paths)
    return app


async def health(service: Served) -> Response:
    """`{status, progress, model}`; 503 unless the status is `ready`."""
    progress = list(service.progress) if service.progress else None
    body = {"status": service.state, "progress": progress, "model": service.name}
    return json_response(body, 200 if service.state == "ready" else 503)


async def metrics(service: Served) -> Response:
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def openapi(app: FastAPI) -> dict[str, Any]:
    """The schema of the API, with the refusals as they are (FastAPI's own would be 422)."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Error"] = ERROR
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                for status, description in REFUSALS.items():
                    operation["responses"][str(status)] = {
                        "description": description,
                        "content": content,
                    }
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}, {}]
        app.openapi_schema = schema
    return app.openapi_schema
