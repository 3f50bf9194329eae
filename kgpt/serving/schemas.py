"""Request bodies as pydantic models. Their sampling fields are derived from `SamplingConfig`.

Bounds and descriptions of sampling options are declared in `kgpt.config` alone; a field that is
absent or null takes the model's default. Unknown and unsupported fields: see `kgpt.serving.body`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kgpt.serving import compatibility
from kgpt.serving.body import MAX_FIELDS, Body, SamplingFields, max_items
from kgpt.serving.compatibility import Neutral
from kgpt.serving.prompts import MAX_PROMPTS, Prompts
from kgpt.serving.structured_output import StructuredOutputFields
from kgpt.serving.tools import (
    ToolCalls,
    ToolChoice,
    Tools,
    check_template_variables,
    forced_tools,
)

MAX_N = 64
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 1024


class StreamOptions(Body):
    """Options of a stream."""

    unsupported: ClassVar[Mapping[str, Neutral]] = {"continuous_usage_stats": (False,)}
    ignored: ClassVar[frozenset[str]] = frozenset(("include_obfuscation",))

    include_usage: bool = Field(False, description="Send a last chunk with the token counts.")


class GenerationRequest(StructuredOutputFields, SamplingFields):
    """Fields of both chat and text completions."""

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    n: int | None = Field(
        None, ge=1, le=MAX_N, description="Number of completions; they have consecutive seeds."
    )
    stream: bool | None = Field(
        None, description="Send the text as it is generated, as server-sent events."
    )
    stream_options: StreamOptions | None = None
    kgpt_receipt: bool | None = Field(
        None,
        description="Give each choice a kgpt_receipt, with which `kgpt replay` repeats it.",
    )
    truncate: Literal["auto"] | None = Field(
        None,
        description="auto: leave out the oldest turns of a conversation, or the beginning of a "
        "text, that would exceed the context; the header X-Kgpt-Left-Out counts messages.",
    )


class TextPart(Body):
    """A content part of a message. Only text is supported."""

    ignored: ClassVar[frozenset[str]] = compatibility.IGNORED_IN_MESSAGES

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a conversation."""

    unsupported: ClassVar[Mapping[str, Neutral]] = compatibility.UNSUPPORTED_IN_MESSAGES
    ignored: ClassVar[frozenset[str]] = compatibility.IGNORED_IN_MESSAGES

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], max_items(MAX_MESSAGES)] | None = None
    refusal: str | None = Field(None, description="The text, where there is no content.")
    tool_calls: ToolCalls | None = Field(None, description="Calls that the assistant made.")
    tool_call_id: str | None = Field(None, description="The call that a tool's message answers.")

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, content: Any) -> Any:
        parts = content if isinstance(content, list) else []
        kinds = [part.get("type") for part in parts if isinstance(part, dict)]
        if other := [kind for kind in kinds if kind != "text"]:
            raise ValueError(
                f"parts of the type {str(other[0])[:40]!r} are not supported; send text"
            )
        return content

    @model_validator(mode="after")
    def _check_role(self) -> Message:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong in a message of the assistant")
        if self.tool_call_id and self.role != "tool":
            raise ValueError("tool_call_id belongs in a message of the role tool")
        return self

    def as_dict(self) -> dict[str, Any]:
        """As chat templates take it.

        Text parts are joined, the role developer becomes system, and arguments are objects.
        """
        content = self.refusal or "" if self.content is None else self.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        role = "system" if self.role == "developer" else self.role
        message: dict[str, Any] = {"role": role, "content": content}
        if self.tool_calls:
            message["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        return message | ({"tool_call_id": self.tool_call_id} if self.tool_call_id else {})


Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES), max_items(MAX_MESSAGES)
]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    endpoint: ClassVar[str] = "POST /v1/chat/completions"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        **compatibility.UNSUPPORTED,
        "add_special_tokens": (False,),
    }

    messages: Messages
    logprobs: bool | None = Field(None, description="Return the log-probability of each token.")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of most likely tokens to return at each position; needs logprobs.",
    )
    continue_final_message: bool | None = Field(
        None, description="Continue the last message, which must be the assistant's."
    )
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None,
        description="none: call no tool; auto (the default): the model decides; required, or "
        'one {"type": "function", "function": {"name": ...}}: the answer is a call.',
    )
    parallel_tool_calls: bool | None = Field(
        None, description="false: at most one call in an answer."
    )
    chat_template_kwargs: Annotated[dict[str, Any] | None, max_items(MAX_FIELDS)] = Field(
        None, description='Variables of the chat template, such as {"enable_thinking": false}.'
    )

    @model_validator(mode="after")
    def _check_combination(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message from the assistant")
        forced_tools(self.tools or [], self.tool_choice)
        check_template_variables(self.chat_template_kwargs)
        return self

    def uses_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    def ignored_paths(self, prefix: str = "") -> Iterator[str]:
        yield from super().ignored_paths(prefix)
        if not self.uses_tools():
            names = ("tools", "tool_choice", "parallel_tool_calls")
            yield from (prefix + name for name in names if getattr(self, name) is not None)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    endpoint: ClassVar[str] = "POST /v1/completions"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        **compatibility.UNSUPPORTED,
        "add_special_tokens": (True,),
    }

    prompt: Prompts = Field(
        description="A text, several texts, token ids, or several lists of them."
    )
    max_tokens: int | None = Field(
        None, ge=0, description="Maximum number of tokens to generate; with echo it may be 0."
    )
    echo: bool | None = Field(
        None, description="Return the prompt before its completion, and its logprobs."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Return the log-probability of each token and of this many most likely tokens.",
    )

    @classmethod
    def translate(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = super().translate(values)
        if values.get("logprobs") is False:
            del values["logprobs"]
        return values

    @model_validator(mode="after")
    def _check_combination(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 needs echo: true")
        return self


class SimpleRequest(StructuredOutputFields):
    """POST /api/gpt/generate."""

    endpoint: ClassVar[str] = "POST /api/gpt/generate"
    sampling_field: ClassVar[str] = "config"

    prompt: str = Field(description="The text to continue.")
    config: SamplingFields | None = Field(None, description="Sampling options.")


class SimpleBatchRequest(StructuredOutputFields):
    """POST /api/gpt/batch-generate."""

    endpoint: ClassVar[str] = "POST /api/gpt/batch-generate"
    sampling_field: ClassVar[str] = "config"

    prompts: Annotated[list[str], max_items(MAX_PROMPTS)] = Field(
        min_length=1, max_length=MAX_PROMPTS
    )
    config: SamplingFields | None = Field(None, description="Sampling options.")
