"""The endpoints under /v1 and /api/gpt: what comes in, to the engine, and back."""

from __future__ import annotations

import os
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from kgpt.config import SamplingConfig
from kgpt.serving.errors import json_response
from kgpt.serving.formats import ChatShape, CompletionShape, Shape, Written, usage_of
from kgpt.serving.request_stream import Answers
from kgpt.serving.responses import Reply, collect
from kgpt.serving.schemas import (
    ChatRequest,
    CompletionRequest,
    Generation,
    SimpleBatchRequest,
    SimpleRequest,
    TokenizeRequest,
)
from kgpt.serving.state import Service

router = APIRouter()


def service_of(request: Request) -> Service:
    return request.app.state.service


Served = Annotated[Service, Depends(service_of)]


@router.post("/v1/chat/completions", summary="Answer a conversation")
async def chat(body: ChatRequest, request: Request, service: Served) -> Response:
    """As in the OpenAI API. `continue_final_message` goes on with the assistant's last message."""
    service.check_model(body.model)
    messages = [message.as_dict() for message in body.messages]
    ids = await service.chat_ids(messages, go_on=bool(body.continue_final_message))
    top = (body.top_logprobs or 0) if body.logprobs else None
    return await _reply(body, request, service, [ids], ChatShape(bool(body.logprobs)), top)


@router.post("/v1/completions", summary="Go on with a text")
async def complete(body: CompletionRequest, request: Request, service: Served) -> Response:
    """As in the OpenAI API. `max_tokens: 1, logprobs: 20` gives the next token's distribution."""
    service.check_model(body.model)
    prompts = [await service.prompt_ids(prompt) for prompt in body.prompts()]
    shape = CompletionShape(body.logprobs is not None)
    return await _reply(body, request, service, prompts, shape, body.logprobs)


async def _reply(
    body: Generation,
    request: Request,
    service: Service,
    prompts: list[list[int]],
    shape: Shape,
    top_logprobs: int | None,
) -> Response:
    n = body.n or 1
    answers = Answers(service)
    await answers.begin(
        prompts, service.sampling(body.sampling()), n, top_logprobs, bool(body.stream)
    )
    reply = Reply(service, shape, answers, n)
    if body.stream:
        options = body.stream_options
        return reply.stream(options is not None and options.include_usage)
    return await reply.whole(request)


@router.get("/v1/models", summary="The model that is served")
async def models(service: Served) -> Response:
    """One model, with what kgpt knows about it beside what the OpenAI API tells."""
    return json_response({"object": "list", "data": [_model(service)]})


@router.get("/v1/models/{name}", summary="The model that is served, by its name")
async def model(name: str, service: Served) -> Response:
    service.check_model(name)
    return json_response(_model(service))


def _model(service: Service) -> dict[str, Any]:
    engine = service.engine
    facts = {
        "context": engine.max_context,
        "chat": engine.chat_template is not None,
        "parameters": engine.config.num_parameters(),
        "backend": os.environ.get("KERAS_BACKEND"),
        "max_tokens": service.config.max_tokens,
        "sampling": engine.default_sampling.model_dump(),
    }
    head = {"id": service.name, "object": "model", "created": service.created, "owned_by": "kgpt"}
    return head | {"kgpt": facts}


@router.post("/v1/tokenize", summary="Text or messages as tokens")
async def tokenize(body: TokenizeRequest, service: Served) -> Response:
    """The ids a text has for the model, or those of a conversation up to the answer to come."""
    service.check_model(body.model)
    engine = service.engine
    if body.text is not None:
        ids = await service.tokenizing(engine.tokenizer.encode, body.text)
    else:
        ids = await service.chat_ids([message.as_dict() for message in body.messages or []])

    def pieces() -> list[str]:
        return [engine.tokenizer.decode([token]) for token in ids]

    tokens = await service.tokenizing(pieces)
    return json_response({"ids": ids, "tokens": tokens, "count": len(ids)})


@router.post("/api/gpt/generate", summary="Go on with a text, in short")
async def generate(body: SimpleRequest, request: Request, service: Served) -> Response:
    """`{prompt, config}` to `{success, text, error, usage}`."""
    texts = await _texts(request, service, [body.prompt], body.config)
    answer = {"success": True, "text": texts[0].text, "error": None}
    return json_response(answer | {"usage": usage_of(texts, 1)})


@router.post("/api/gpt/batch-generate", summary="Go on with several texts, in short")
async def batch_generate(body: SimpleBatchRequest, request: Request, service: Served) -> Response:
    """`{prompts, config}` to `{success, texts, error, usage}`."""
    texts = await _texts(request, service, body.prompts, body.config)
    answer = {"success": True, "texts": [text.text for text in texts], "error": None}
    return json_response(answer | {"usage": usage_of(texts, 1)})


async def _texts(
    request: Request, service: Service, prompts: list[str], config: Any
) -> list[Written]:
    ids = [await service.prompt_ids(prompt) for prompt in prompts]
    sampling: SamplingConfig = service.sampling(config.sampling() if config else {})
    answers = Answers(service)
    await answers.begin(ids, sampling)
    texts = [Written() for _ in prompts]
    await collect(request, answers, texts)
    return texts
