"""POST /v1/responses, as in the OpenAI Responses API; nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from kgpt.protocol import GenerationChunk, merge_chunks
from kgpt.serving.errors import json_response
from kgpt.serving.request_stream import RequestStream
from kgpt.serving.response_object import ResponseObject
from kgpt.serving.responses import (
    SSE_KEEPALIVE_S,
    EventStreamResponse,
    collect,
    failures_as_text,
    raise_if_failed,
    tell_left_out,
)
from kgpt.serving.responses_schema import ResponsesRequest
from kgpt.serving.routes import StateDep

router = APIRouter()


@router.post("/v1/responses", summary="Model response")
async def responses(body: ResponsesRequest, request: Request, state: StateDep) -> Response:
    """As in the OpenAI Responses API: text in, text out, streamed as its standard events."""
    adapter = state.adapter_for(body.model)
    sampling = state.resolve_sampling(body.sampling())
    room = sampling.max_tokens if body.truncation == "auto" else None
    ids, left_out = await state.encode_chat(body.messages(), room=room, adapter=adapter)
    grammar = await state.compile_grammar(body.structured_output)
    stream = RequestStream(state, adapter)
    await stream.submit([ids], sampling, 1, body.num_logprobs, bool(body.stream), grammar)
    made = ResponseObject(body, stream.model_name, sampling)
    if body.stream:
        events = failures_as_text(_events(made, stream), made.failure)
        response: Response = EventStreamResponse(events, stream)
    else:
        (completion,) = await collect(request, stream)
        response = json_response(made.completed(completion, stream.usage()))
    return tell_left_out(response, left_out)


async def _events(made: ResponseObject, stream: RequestStream) -> AsyncIterator[str]:
    yield made.opening()
    chunks: list[GenerationChunk] = []
    while stream.is_open:
        new = await stream.next_chunks(SSE_KEEPALIVE_S)
        for chunk in new:
            raise_if_failed(chunk)
        chunks += new
        yield "".join(map(made.delta, new)) or ": keep-alive\n\n"
    yield made.closing(merge_chunks(chunks), stream.usage())
