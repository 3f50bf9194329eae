"""Ollama's API: its requests and answers in the terms of kgpt's own endpoints.

`options` are kgpt's sampling options under Ollama's names; what is not given is the model's own
default and not Ollama's. https://docs.ollama.com/api
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

import kgpt
from kgpt.config import StructuredOutputConfig
from kgpt.protocol import GenerationChunk
from kgpt.serving.body import Body, SamplingFields, max_items
from kgpt.serving.compatibility import IGNORED, UNSUPPORTED, refusal
from kgpt.serving.errors import json_response
from kgpt.serving.formats import token_entry
from kgpt.serving.ollama_models import details_of_model, model_entry
from kgpt.serving.request_stream import RequestStream
from kgpt.serving.responses import (
    EventStreamResponse,
    collect,
    failures_as_text,
    raise_if_failed,
    tell_left_out,
)
from kgpt.serving.routes import StateDep
from kgpt.serving.schemas import MAX_MESSAGES, MAX_TOP_LOGPROBS, Message
from kgpt.serving.state import ServerState

if TYPE_CHECKING:
    from kgpt.generation.adapters import LoadedAdapter

router = APIRouter()


class OllamaRequest(Body):
    """What `/api/chat` and `/api/generate` share."""

    sampling_field: ClassVar[str] = "options"
    unsupported = UNSUPPORTED
    ignored = IGNORED

    model: str = Field(description="The model's name, as listed by GET /api/tags.")
    options: SamplingFields | None = Field(
        None, description="Sampling options; those not given are the model's own."
    )
    format: Literal["", "json"] | dict[str, Any] | None = Field(
        None, description="json: the text is a JSON object; else the JSON schema of the text."
    )
    stream: bool = Field(
        True, description="Send the text as it is generated, a JSON object a line."
    )
    truncate: bool = Field(
        True,
        description="Leave out the oldest turns of a conversation, or the beginning of a text, "
        "that would exceed the context; the header X-Kgpt-Left-Out counts messages.",
    )
    logprobs: bool = Field(False, description="Return the log-probability of each token.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of most likely tokens to return at each position; needs logprobs.",
    )

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("top_logprobs") and not values.get("logprobs"):
            raise refusal("top_logprobs", "top_logprobs needs logprobs: true")
        return values

    def sampling(self) -> dict[str, Any]:
        """The sampling fields that were given."""
        given: dict[str, Any] = self.options.sampling() if self.options else {}
        return given

    def structured_output(self) -> StructuredOutputConfig | None:
        """What `format` asks for; None for free text."""
        if self.format == "json":
            return StructuredOutputConfig(json_object=True)
        schema = self.format if isinstance(self.format, dict) else None
        return StructuredOutputConfig.if_given({"json_schema": schema}, "format")


class OllamaChatRequest(OllamaRequest):
    """POST /api/chat."""

    endpoint: ClassVar[str] = "POST /api/chat"

    messages: Annotated[list[Message], Field(max_length=MAX_MESSAGES), max_items(MAX_MESSAGES)] = (
        Field([], description="The conversation. A last message of the assistant is continued.")
    )


class OllamaGenerateRequest(OllamaRequest):
    """POST /api/generate."""

    endpoint: ClassVar[str] = "POST /api/generate"

    prompt: str = Field("", description="A message to the model; the text to continue with raw.")
    system: str = Field("", description="The system message before it.")
    raw: bool = Field(False, description="Use no chat template.")

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("raw") and values.get("system"):
            raise refusal("system", "raw text has no system message; leave one of them out")
        return super().translate(values)

    def messages(self) -> list[dict[str, str]]:
        """The conversation that the request stands for."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.prompt}]


class ShowRequest(Body):
    """POST /api/show."""

    endpoint: ClassVar[str] = "POST /api/show"
    ignored: ClassVar[frozenset[str]] = frozenset(("verbose",))

    model: str | None = Field(None, description="The model's name, as listed by GET /api/tags.")
    name: str | None = Field(None, description="The same, as older clients call it.")


@router.post("/api/chat", summary="Chat completion in Ollama's format")
async def chat(body: OllamaChatRequest, request: Request, state: StateDep) -> Response:
    """As in Ollama's API: a JSON object a line, or a single one with `stream: false`."""
    answer = OllamaAnswer(state, body, "message", adapter_for(state, body.model))
    if not body.messages:
        return json_response(answer.loaded())
    messages = [message.as_dict() for message in body.messages]
    return await _chat(answer, messages, request)


@router.post("/api/generate", summary="Text completion in Ollama's format")
async def generate(body: OllamaGenerateRequest, request: Request, state: StateDep) -> Response:
    """As in Ollama's API: the prompt is a message, if the model has a chat template."""
    adapter = adapter_for(state, body.model)
    answer = OllamaAnswer(state, body, "response", adapter)
    if not body.prompt:
        return json_response(answer.loaded())
    if body.system or (not body.raw and state.generator.chat_template_of(adapter) is not None):
        return await _chat(answer, body.messages(), request)
    ids = await state.encode_prompt(body.prompt, answer.room)
    return await answer.response(ids, request)


async def _chat(answer: OllamaAnswer, messages: list[dict[str, str]], request: Request) -> Response:
    state = answer.state
    unfinished = messages[-1]["role"] == "assistant"
    ids, left_out = await state.encode_chat(
        messages, unfinished, answer.room, adapter=answer.adapter
    )
    return tell_left_out(await answer.response(ids, request), left_out)


class OllamaAnswer:
    """The answer to one request, whole or streamed.

    Args:
        text_field: where the text is: `message` of a chat, or `response`.
        adapter: generates it; None is the model itself.
    """

    def __init__(
        self,
        state: ServerState,
        body: OllamaRequest,
        text_field: Literal["message", "response"],
        adapter: LoadedAdapter | None,
    ):
        self.state, self.body, self.text_field, self.adapter = state, body, text_field, adapter
        self.sampling = state.resolve_sampling(body.sampling())
        self._arrival = time.monotonic_ns()
        self._first_token: int | None = None

    @property
    def room(self) -> int | None:
        """Tokens to leave in the context by truncating the prompt; None without `truncate`."""
        return self.sampling.max_tokens if self.body.truncate else None

    async def response(self, ids: list[int], request: Request) -> Response:
        """The response to a prompt of these token ids."""
        top_logprobs = self.body.top_logprobs if self.body.logprobs else None
        grammar = await self.state.compile_grammar(self.body.structured_output())
        stream = RequestStream(self.state, self.adapter)
        await stream.submit([ids], self.sampling, 1, top_logprobs, self.body.stream, grammar)
        if self.body.stream:
            lines = failures_as_text(
                self._lines(stream), lambda error: _line({"error": error.message})
            )
            return EventStreamResponse(lines, stream, "application/x-ndjson")
        (completion,) = await collect(request, stream)
        return json_response(self._part(completion) | self._end(completion))

    def loaded(self) -> dict[str, Any]:
        """The answer to a request without a prompt, which asks for the model to be loaded."""
        return self._part(GenerationChunk()) | {"done": True, "done_reason": "load"}

    async def _lines(self, stream: RequestStream) -> AsyncIterator[str]:
        while stream.is_open:
            for chunk in await stream.next_chunks():
                raise_if_failed(chunk)
                if self._first_token is None and not chunk.finish_reason:
                    self._first_token = time.monotonic_ns()
                if chunk.text or chunk.tokens:
                    yield _line(self._part(chunk))
                if chunk.finish_reason:
                    yield _line(self._part(GenerationChunk()) | self._end(chunk))

    def _part(self, chunk: GenerationChunk) -> dict[str, Any]:
        """One object of a stream, with the new text."""
        text: Any = chunk.text
        if self.text_field == "message":
            text = {"role": "assistant", "content": chunk.text}
        part = {
            "model": self.body.model,
            "created_at": datetime.now(UTC).isoformat(),
            self.text_field: text,
            "done": False,
        }
        if self.body.logprobs:
            part["logprobs"] = [token_entry(token) for token in chunk.tokens]
        return part

    def _end(self, chunk: GenerationChunk) -> dict[str, Any]:
        """The fields of the last object: why generation ended, token counts, and times in ns.

        The time of an answer that came whole is that of its evaluation, prompt included.
        """
        now = time.monotonic_ns()
        first_token = self._first_token or self._arrival
        usage = chunk.usage
        return {
            "done": True,
            "done_reason": "length" if chunk.finish_reason == "deadline" else chunk.finish_reason,
            "total_duration": now - self._arrival,
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens if usage else 0,
            "prompt_eval_duration": first_token - self._arrival,
            "eval_count": usage.completion_tokens if usage else 0,
            "eval_duration": now - first_token,
        }


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def adapter_for(state: ServerState, name: str | None) -> LoadedAdapter | None:
    """`ServerState.adapter_for`; the tag `latest` may be left out or given."""
    return state.adapter_for(name.removesuffix(":latest") if name else name)


@router.get("/api/tags", summary="List the model in Ollama's format")
async def tags(state: StateDep) -> Response:
    """The served model under each of its names, and its adapters."""
    models = [model_entry(state, name) for name in state.names]
    for adapter in state.adapters:
        models.append(model_entry(state, state.name_of(adapter), state.name))
    return json_response({"models": models})


@router.get("/api/ps", summary="List the loaded model in Ollama's format")
async def running(state: StateDep) -> Response:
    """The served model, which stays loaded."""
    loaded = {"expires_at": "9999-12-31T23:59:59Z", "context_length": state.generator.max_context}
    return json_response({"models": [model_entry(state, state.name) | loaded]})


@router.post("/api/show", summary="The model in Ollama's format")
async def show(body: ShowRequest, state: StateDep) -> Response:
    """Shape, default sampling and abilities of the model."""
    adapter = adapter_for(state, body.model or body.name)
    return json_response(details_of_model(state, state.name if adapter else ""))


@router.get("/api/version", summary="The version in Ollama's format")
async def version() -> Response:
    """The version of kgpt."""
    return json_response({"version": kgpt.__version__})
