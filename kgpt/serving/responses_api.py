"""POST /v1/responses, as in the OpenAI Responses API; nothing is stored."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from kgpt.protocol import GenerationChunk, merge_chunks
from kgpt.serving.errors import APIError, json_response
from kgpt.serving.request_stream import RequestStream
from kgpt.serving.response_object import ResponseObject
from kgpt.serving.responses import SSE_KEEPALIVE_S, EventStreamResponse, collect, raise_if_failed
from kgpt.serving.responses_schema import ResponsesRequest
from kgpt.serving.routes import StateDep

router = APIRouter()
log = logging.getLogger("kgpt.serving")


@router.post("/v1/responses", summary="Model response")
async def responses(body: ResponsesRequest, request: Request, state: StateDep) -> Response:
    """As in the OpenAI Responses API: text in, text out, streamed as its standard events."""
    state.check_model(body.model)
    sampling = state.resolve_sampling(body.sampling())
    left_out = 0
    if body.truncation == "auto":
        ids, left_out = await state.truncate_chat(body.messages(), False, sampling.max_tokens)
    else:
        ids = await state.encode_chat(body.messages())
    grammar = await state.compile_grammar(body.structured_output)
    stream = RequestStream(state)
    await stream.submit([ids], sampling, 1, body.num_logprobs, bool(body.stream), grammar)
    made = ResponseObject(body, state.name, sampling)
    if body.stream:
        response: Response = EventStreamResponse(_events(made, stream), stream)
    else:
        (completion,) = await collect(request, stream)
        response = json_response(made.completed(completion, stream.usage()))
    if left_out:
        response.headers["X-Kgpt-Left-Out"] = str(left_out)
    return response


async def _events(made: ResponseObject, stream: RequestStream) -> AsyncIterator[str]:
    try:
        yield made.opening()
        chunks: list[GenerationChunk] = []
        while stream.is_open:
            new = await stream.next_chunks(SSE_KEEPALIVE_S)
            for chunk in new:
                raise_if_failed(chunk)
            chunks += new
            yield "".join(map(made.delta, new)) or ": keep-alive\n\n"
        yield made.closing(merge_chunks(chunks), stream.usage())
    except APIError as error:
        yield made.failure(error)
    except Exception:
        log.exception("a stream failed")
        yield made.failure(APIError(500, "The server failed at this response."))
