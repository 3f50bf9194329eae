"""POST /v1/embeddings, as in the OpenAI API."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from kgpt.serving.body import Body
from kgpt.serving.compatibility import Neutral
from kgpt.serving.errors import APIError, json_response
from kgpt.serving.forward import run_forward
from kgpt.serving.prompts import Prompts, as_list
from kgpt.serving.routes import StateDep
from kgpt.serving.state import ServerState

router = APIRouter()


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    endpoint: ClassVar[str] = "POST /v1/embeddings"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        "add_special_tokens": (True,),
        "normalize": (True,),
        "truncate_prompt_tokens": (),
    }
    ignored: ClassVar[frozenset[str]] = frozenset(("user", "priority", "request_id"))

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    input: Prompts = Field(
        description="A text, several texts, token ids, or several lists of them."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="float: a list of numbers (default); base64: of little-endian float32."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Accepted only where it is the model's hidden_dim."
    )


@router.post("/v1/embeddings", summary="Embeddings")
async def embeddings(body: EmbeddingRequest, request: Request, state: StateDep) -> Response:
    """The mean of a text's final hidden states, scaled to length 1, with `hidden_dim` numbers."""
    adapter = state.adapter_for(body.model)
    size = state.generator.config.hidden_dim
    if body.dimensions not in (None, size):
        raise APIError(
            400,
            f"dimensions: this model's embeddings have {size} numbers; leave it out.",
            param="dimensions",
        )
    prompts = [await encode_input(state, prompt) for prompt in as_list(body.input)]
    found = await run_forward(request, state, prompts, "embedding", adapter=adapter)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _numbers(row, body.encoding_format),
        }
        for index, row in enumerate(found)
    ]
    tokens = sum(map(len, prompts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    name = state.name_of(adapter)
    return json_response({"object": "list", "data": data, "model": name, "usage": usage})


async def encode_input(state: ServerState, prompt: str | list[int]) -> list[int]:
    """The token ids of a text, or ids as they are; an `APIError` if it is empty or too long."""
    if not prompt:
        raise APIError(400, "input: a text is empty; give at least one character.", param="input")
    return await state.encode_prompt(prompt, answer=False)


def _numbers(row: np.ndarray, encoding_format: str | None) -> Any:
    if encoding_format == "base64":
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return row.tolist()
