"""The endpoints under /v1 and /api/gpt."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from kgpt.protocol import GenerationChunk, Usage
from kgpt.serving.echo import EchoFormat, echoed_prompts
from kgpt.serving.errors import json_response
from kgpt.serving.formats import ResponseFormat, TextCompletionFormat, usage_body
from kgpt.serving.prompts import as_list
from kgpt.serving.request_stream import RequestStream
from kgpt.serving.responses import ResponseBuilder, collect, tell_left_out
from kgpt.serving.schemas import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    SimpleBatchRequest,
    SimpleRequest,
)
from kgpt.serving.state import ServerState, is_classifier
from kgpt.serving.tool_use import ToolUse, chat_format, template_variables, tool_use_of

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter

router = APIRouter()


def get_state(request: Request) -> ServerState:
    state: ServerState = request.app.state.server
    return state


StateDep = Annotated[ServerState, Depends(get_state)]


@router.post("/v1/chat/completions", summary="Chat completion")
async def chat_completions(body: ChatRequest, request: Request, state: StateDep) -> Response:
    """As in the OpenAI API. `continue_final_message` continues the assistant's last message."""
    adapter = state.adapter_for(body.model)
    chat_template = state.chat_template_of(adapter)
    tool_use = tool_use_of(body, state, chat_template)
    messages = [message.as_dict() for message in body.messages]
    template = {
        "tools": tool_use.tools if tool_use else [],
        "variables": template_variables(body, chat_template),
    }
    unfinished = bool(body.continue_final_message)
    room = _room(body, state)
    ids, left_out = await state.encode_chat(messages, unfinished, room, template, adapter)
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    response_format = chat_format(bool(body.logprobs), tool_use)
    stream = RequestStream(state, adapter)
    response = await _respond(
        body, request, state, stream, [ids], response_format, top_logprobs, tool_use
    )
    return tell_left_out(response, left_out)


@router.post("/v1/completions", summary="Text completion")
async def completions(body: CompletionRequest, request: Request, state: StateDep) -> Response:
    """As in the OpenAI API. `max_tokens: 1, logprobs: 20` returns the next-token distribution."""
    adapter = state.adapter_for(body.model)
    room, answer = _room(body, state), body.max_tokens != 0
    prompts = [await state.encode_prompt(text, room, answer) for text in as_list(body.prompt)]
    response_format: ResponseFormat = TextCompletionFormat(body.logprobs is not None)
    if body.echo:
        echoed = await echoed_prompts(body, request, state, prompts, adapter)
        response_format = EchoFormat(body.logprobs is not None, echoed, body.n or 1)
    stream = RequestStream(state, adapter)
    return await _respond(body, request, state, stream, prompts, response_format, body.logprobs)


def _room(body: GenerationRequest, state: ServerState) -> int | None:
    """Tokens to leave in the context by truncating the prompt; None without `truncate`."""
    if not body.truncate:
        return None
    given = body.sampling()
    return 0 if given.get("max_tokens") == 0 else state.resolve_sampling(given).max_tokens


async def _respond(
    body: GenerationRequest,
    request: Request,
    state: ServerState,
    stream: RequestStream,
    prompts: list[list[int]],
    response_format: ResponseFormat,
    top_logprobs: int | None,
    tool_use: ToolUse | None = None,
) -> Response:
    given = body.sampling()
    if given.get("max_tokens") == 0:
        stream.generate_nothing(prompts, body.n or 1)
    else:
        sampling = state.resolve_sampling(given)
        asked = body.structured_output
        asked = tool_use.structured_output(asked) if tool_use else asked
        grammar = await state.compile_grammar(asked)
        n, is_streamed = body.n or 1, bool(body.stream)
        keep_special = tool_use.keep_special if tool_use else frozenset()
        await stream.submit(
            prompts,
            sampling,
            n,
            top_logprobs,
            is_streamed,
            grammar,
            keep_special,
            receipts=bool(body.kgpt_receipt),
        )
    builder = ResponseBuilder(state, response_format, stream)
    if body.stream:
        options = body.stream_options
        return builder.events(options is not None and options.include_usage)
    return await builder.json(request)


@router.get("/v1/models", summary="List the model and its adapters")
async def list_models(state: StateDep) -> Response:
    """The served model under each of its names, and its adapters, whose `parent` it is.

    `kgpt` is context, size and sampling.
    """
    models = [_model_info(state, name) for name in state.names]
    for adapter in state.adapters:
        models.append(_model_info(state, state.name_of(adapter), adapter))
    return json_response({"object": "list", "data": models})


@router.get("/v1/models/{name:path}", summary="The model, by its name")
async def retrieve_model(name: str, state: StateDep) -> Response:
    adapter = state.adapter_for(name)
    return json_response(_model_info(state, name, adapter))


def _model_info(
    state: ServerState, name: str, adapter: LoadedAdapter | None = None
) -> dict[str, Any]:
    if is_classifier(state.served):
        return _classifier_info(state, name)
    generator = state.generator
    info = {
        "context": generator.max_context,
        "chat": generator.chat_template_of(adapter) is not None,
        "parameters": generator.config.num_parameters(),
        "backend": os.environ.get("KERAS_BACKEND"),
        "max_tokens": state.config.max_tokens,
        "sampling": generator.default_sampling.model_dump(),
    }
    entry = _model_entry(state, name, info)
    return entry | ({"parent": state.name} if adapter else {})


def _classifier_info(state: ServerState, name: str) -> dict[str, Any]:
    classifier = state.classifier
    info = {
        "context": classifier.max_context,
        "labels": list(classifier.labels),
        "multi_label": classifier.multi_label,
        "parameters": classifier.config.num_parameters(),
        "backend": os.environ.get("KERAS_BACKEND"),
    }
    return _model_entry(state, name, info)


def _model_entry(state: ServerState, name: str, info: dict[str, Any]) -> dict[str, Any]:
    head = {"id": name, "object": "model", "created": state.created, "owned_by": "kgpt"}
    return head | {"kgpt": info}


@router.post("/api/gpt/generate", summary="Text completion, minimal format")
async def generate(body: SimpleRequest, request: Request, state: StateDep) -> Response:
    """`{prompt, config}` → `{success, text, error, usage}`."""
    (completion,), usage = await _complete(request, state, [body.prompt], body)
    response = {"success": True, "text": completion.text, "error": None}
    return json_response(response | {"usage": usage_body(usage)})


@router.post("/api/gpt/batch-generate", summary="Text completion of a batch, minimal format")
async def batch_generate(body: SimpleBatchRequest, request: Request, state: StateDep) -> Response:
    """`{prompts, config}` → `{success, texts, error, usage}`."""
    completions, usage = await _complete(request, state, body.prompts, body)
    texts = [completion.text for completion in completions]
    response = {"success": True, "texts": texts, "error": None}
    return json_response(response | {"usage": usage_body(usage)})


async def _complete(
    request: Request,
    state: ServerState,
    prompts: list[str],
    body: SimpleRequest | SimpleBatchRequest,
) -> tuple[list[GenerationChunk], Usage]:
    ids = [await state.encode_prompt(prompt) for prompt in prompts]
    sampling = state.resolve_sampling(body.config.sampling() if body.config else {})
    grammar = await state.compile_grammar(body.structured_output)
    stream = RequestStream(state)
    await stream.submit(ids, sampling, grammar=grammar)
    return await collect(request, stream), stream.usage()
