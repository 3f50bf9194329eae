"""Request bodies as pydantic models. Their sampling fields are derived from `SamplingConfig`.

Bounds and descriptions of sampling options are declared in `kgpt.config` alone; a field that is
absent or null takes the model's default.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MaxLen
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from kgpt.config import SamplingConfig

MAX_FIELDS = 64  # of one object
MAX_N = 64
MAX_PROMPTS = 64
MAX_TOP_LOGPROBS = 20
MAX_MESSAGES = 1024

# Fields of the OpenAI API that kgpt does not support, with the values that have no effect.
UNSUPPORTED_FIELDS: dict[str, tuple[Any, ...]] = {
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
}
# Fields of the OpenAI API that do not affect the text.
IGNORED_FIELDS = (
    "user", "store", "metadata", "service_tier", "parallel_tool_calls", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "verbosity",
)  # fmt: skip


def max_items(limit: int) -> BeforeValidator:
    """Reject a longer list or object before its items are validated (and reported)."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > limit:
            raise ValueError(f"there are {len(value)} items; at most {limit} are allowed")
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    """A request body; unknown fields are rejected."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _limit_fields(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > MAX_FIELDS:
            raise ValueError(
                f"the object has too many fields: {len(values)}; at most {MAX_FIELDS} are allowed"
            )
        return values


class SamplingBody(Body):
    """A body with sampling fields."""

    def sampling(self) -> dict[str, Any]:
        """The sampling fields that were given and are not null."""
        given = {
            name: value
            for name in SamplingConfig.model_fields
            if (value := getattr(self, name)) is not None
        }
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        return given


def _optional(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """An optional sampling field. `stop` may be a single string, as in the OpenAI API."""
    limits = [max_items(bound.max_length) for bound in field.metadata if isinstance(bound, MaxLen)]
    bounded: Any = Annotated[(field.annotation, Field(), *field.metadata, *limits)]
    allowed = str | bounded | None if name == "stop" else bounded | None
    return allowed, Field(None, description=field.description)


# Every field of `SamplingConfig`, each optional.
SamplingFields: Any = create_model(
    "SamplingFields",
    __base__=SamplingBody,
    **{name: _optional(name, field) for name, field in SamplingConfig.model_fields.items()},  # type: ignore[call-overload]
)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = Field(False, description="Send a last chunk with the token counts.")
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class GenerationRequest(SamplingFields):
    """Fields of both chat and text completions."""

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    n: int | None = Field(
        None, ge=1, le=MAX_N, description="Number of completions; they have consecutive seeds."
    )
    stream: bool | None = Field(
        None, description="Send the text as it is generated, as server-sent events."
    )
    stream_options: StreamOptions | None = None
    truncate: Literal["auto"] | None = Field(
        None,
        description="auto: leave out the oldest turns of a conversation, or the beginning of a "
        "text, that would exceed the context; the header X-Kgpt-Left-Out counts messages.",
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_unsupported(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, no_effect in UNSUPPORTED_FIELDS.items():
            if values.get(name) is not None and values[name] not in no_effect:
                raise ValueError(f"{name} is not supported; leave it out")
        return {
            k: v
            for k, v in values.items()
            if k not in UNSUPPORTED_FIELDS and k not in IGNORED_FIELDS
        }


class TextPart(Body):
    """A content part of a message. Only text is supported."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], max_items(MAX_MESSAGES)] | None = None
    name: str | None = Field(None, description="Accepted and ignored.")
    refusal: str | None = Field(None, description="Accepted and ignored.")

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

    def as_dict(self) -> dict[str, str]:
        """{"role", "content"}: text parts are joined, and the role developer becomes system."""
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES), max_items(MAX_MESSAGES)
]


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(
        None, ge=1, description="The OpenAI API's newer name for max_tokens."
    )
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

    @model_validator(mode="after")
    def _check_combination(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message from the assistant")
        return self

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given


TokenIds = list[Annotated[int, Field(ge=0)]]


def _are_token_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and i >= 0 for i in value)


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    prompt: str | TokenIds | list[str] | list[TokenIds] = Field(
        description="A text, several texts, token ids, or several lists of them."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Return the log-probability of each token and of this many most likely tokens.",
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        """Checked before the union, which would report every item for every alternative."""
        if isinstance(prompt, str) or _are_token_ids(prompt):
            return prompt
        if isinstance(prompt, list) and len(prompt) > MAX_PROMPTS:
            raise ValueError(f"there are {len(prompt)} prompts; send at most {MAX_PROMPTS} at once")
        if (
            not isinstance(prompt, list)
            or not prompt
            or not (
                all(isinstance(item, str) for item in prompt) or all(map(_are_token_ids, prompt))
            )
        ):
            raise ValueError("the prompt must be a text, a list of texts, or token ids")
        return prompt

    def prompts(self) -> list[str | list[int]]:
        """The prompts as a list, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class SimpleRequest(Body):
    """POST /api/gpt/generate."""

    prompt: str = Field(description="The text to continue.")
    config: SamplingFields | None = Field(None, description="Sampling options.")


class SimpleBatchRequest(Body):
    """POST /api/gpt/batch-generate."""

    prompts: Annotated[list[str], max_items(MAX_PROMPTS)] = Field(
        min_length=1, max_length=MAX_PROMPTS
    )
    config: SamplingFields | None = Field(None, description="Sampling options.")


class TokenizeRequest(Body):
    """POST /v1/tokenize: a text or a conversation."""

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    text: str | None = Field(None, max_length=1 << 18)
    messages: Messages | None = None

    @model_validator(mode="after")
    def _check_exactly_one(self) -> TokenizeRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


REQUESTS = (
    ChatRequest, CompletionRequest, SimpleRequest, SimpleBatchRequest, TokenizeRequest,
    StreamOptions, Message, TextPart,
)  # fmt: skip
FIELD_NAMES = sorted({name for request in REQUESTS for name in request.model_fields})
