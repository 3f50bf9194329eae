"""Adapters loaded and unloaded while the server runs, by vLLM's endpoints; off by default.

A client that may use them makes the server read any folder of its machine that holds an adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from kgpt.errors import UsageError
from kgpt.serving.body import Body
from kgpt.serving.compatibility import Neutral
from kgpt.serving.errors import APIError
from kgpt.serving.routes import StateDep

MAX_NAME = 200

router = APIRouter()


class LoadAdapterRequest(Body):
    """POST /v1/load_lora_adapter."""

    endpoint: ClassVar[str] = "POST /v1/load_lora_adapter"
    unsupported: ClassVar[Mapping[str, Neutral]] = {"load_inplace": (False,)}
    ignored: ClassVar[frozenset[str]] = frozenset(("base_model_name",))

    lora_name: str = Field(min_length=1, max_length=MAX_NAME, description="The adapter's name.")
    lora_path: str = Field(min_length=1, description="Its folder, on the server's machine.")


class UnloadAdapterRequest(Body):
    """POST /v1/unload_lora_adapter."""

    endpoint: ClassVar[str] = "POST /v1/unload_lora_adapter"
    ignored: ClassVar[frozenset[str]] = frozenset(("lora_int_id",))

    lora_name: str = Field(min_length=1, max_length=MAX_NAME, description="The adapter's name.")


@router.post(
    "/v1/load_lora_adapter", summary="Load an adapter, as vLLM does (with --runtime-lora-updating)"
)
async def load_lora_adapter(body: LoadAdapterRequest, state: StateDep) -> Response:
    """Load an adapter from a folder of PEFT, while requests run."""
    generator, folder = state.generator, Path(body.lora_path)
    if body.lora_name in state.names:
        raise UsageError(f"{body.lora_name!r} is the name of the model; choose another.")
    if not folder.is_dir():
        raise UsageError(f"There is no folder {body.lora_path!r} on the server's machine.")
    await asyncio.to_thread(generator.load_adapter, body.lora_name, folder)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter",
    summary="Unload an adapter, as vLLM does (with --runtime-lora-updating)",
)
async def unload_lora_adapter(body: UnloadAdapterRequest, state: StateDep) -> Response:
    """Refuse new requests for an adapter; those under way end with it."""
    adapters = state.generator.adapters
    if body.lora_name not in adapters.names:
        message = f"The lora adapter {body.lora_name!r} cannot be found."
        raise APIError(404, message, param="lora_name", code="model_not_found")
    adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
