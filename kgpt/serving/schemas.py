"""What requests look like. The sampling fields are rendered from `SamplingConfig`.

Bounds and descriptions of sampling stand in `kgpt.config` alone; a field that is absent or null
takes the model's own default.
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

# Fields of the OpenAI API that kgpt cannot honour, with the values that ask for nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
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
# Fields that change nothing about the text.
IGNORED = (
    "user", "store", "metadata", "service_tier", "parallel_tool_calls", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "verbosity",
)  # fmt: skip


def few(limit: int) -> BeforeValidator:
    """Refuse a longer list or object before each of its items is looked at (and reported)."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > limit:
            raise ValueError(f"there are {len(value)} items; at most {limit} are taken")
        return value

    return BeforeValidator(check)


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, values: Any) -> Any:
        if isinstance(values, dict) and len(values) > MAX_FIELDS:
            raise ValueError(f"the object has {len(values)} fields, which is too many")
        return values


class Sampled(Body):
    """A request that may say how its text is sampled."""

    def sampling(self) -> dict[str, Any]:
        """The sampling that was asked for; what was left out or null is not in it."""
        given = {
            name: value
            for name in SamplingConfig.model_fields
            if (value := getattr(self, name)) is not None
        }
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        return given


def _optional(name: str, field: FieldInfo) -> tuple[Any, Any]:
    """A sampling field that may be left out. `stop` may be one string, as in the OpenAI API."""
    limits = [few(bound.max_length) for bound in field.metadata if isinstance(bound, MaxLen)]
    bounded: Any = Annotated[(field.annotation, Field(), *field.metadata, *limits)]
    allowed = str | bounded | None if name == "stop" else bounded | None
    return allowed, Field(None, description=field.description)


# Every field of `SamplingConfig`, none of them required.
SamplingFields: Any = create_model(
    "SamplingFields",
    __base__=Sampled,
    **{name: _optional(name, field) for name, field in SamplingConfig.model_fields.items()},  # type: ignore[call-overload]
)


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool = Field(False, description="End with a chunk that counts the tokens.")
    include_obfuscation: bool | None = Field(None, description="Accepted and ignored.")


class Generation(SamplingFields):
    """What chat and plain completions have in common."""

    model: str | None = Field(None, description="The model's name, as GET /v1/models gives it.")
    n: int | None = Field(
        None, ge=1, le=MAX_N, description="How many texts; their seeds follow on one another."
    )
    stream: bool | None = Field(None, description="Send the text as it is written.")
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name, harmless in REFUSED.items():
            if values.get(name) is not None and values[name] not in harmless:
                raise ValueError(f"{name} is not available here; leave it out")
        return {k: v for k, v in values.items() if k not in REFUSED and k not in IGNORED}


class TextPart(Body):
    """A part of a message. Only text can be read."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], few(MAX_MESSAGES)] | None = None
    name: str | None = Field(None, description="Accepted and ignored.")
    refusal: str | None = Field(None, description="Accepted and ignored.")

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, content: Any) -> Any:
        parts = content if isinstance(content, list) else []
        kinds = [part.get("type") for part in parts if isinstance(part, dict)]
        if other := [kind for kind in kinds if kind != "text"]:
            raise ValueError(f"parts of the type {str(other[0])[:40]!r} cannot be read; send text")
        return content

    def as_dict(self) -> dict[str, str]:
        """{"role", "content"}, with the parts joined and a developer's word as the system's."""
        content = self.content or ""
        if not isinstance(content, str):
            content = "".join(part.text for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), few(MAX_MESSAGES)]


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Messages
    max_completion_tokens: int | None = Field(
        None, ge=1, description="The OpenAI API's newer name of max_tokens."
    )
    logprobs: bool | None = Field(None, description="Tell the log probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="And of so many others; needs logprobs."
    )
    continue_final_message: bool | None = Field(
        None, description="Go on with the last message, which must be the assistant's."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message needs a last message of the assistant")
        return self

    def sampling(self) -> dict[str, Any]:
        given = super().sampling()
        if self.max_completion_tokens is not None:
            given["max_tokens"] = self.max_completion_tokens
        return given


Ids = list[Annotated[int, Field(ge=0)]]


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(i) is int and i >= 0 for i in value)


class CompletionRequest(Generation):
    """POST /v1/completions."""

    prompt: str | Ids | list[str] | list[Ids] = Field(
        description="A text, several texts, or token ids."
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Tell the log probability of each token and of so many others.",
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_or_ids(cls, prompt: Any) -> Any:
        """Checked here, for a union would report each item of each alternative."""
        if isinstance(prompt, str) or _are_ids(prompt):
            return prompt
        if isinstance(prompt, list) and len(prompt) > MAX_PROMPTS:
            raise ValueError(f"there are {len(prompt)} prompts; send at most {MAX_PROMPTS} at once")
        if (
            not isinstance(prompt, list)
            or not prompt
            or not (all(isinstance(item, str) for item in prompt) or all(map(_are_ids, prompt)))
        ):
            raise ValueError("the prompt must be a text, a list of texts, or token ids")
        return prompt

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)  # type: ignore[arg-type]


class SimpleRequest(Body):
    """POST /api/gpt/generate."""

    prompt: str = Field(description="What the text begins with.")
    config: SamplingFields | None = Field(None, description="How it is sampled.")


class SimpleBatchRequest(Body):
    """POST /api/gpt/batch-generate."""

    prompts: Annotated[list[str], few(MAX_PROMPTS)] = Field(min_length=1, max_length=MAX_PROMPTS)
    config: SamplingFields | None = Field(None, description="How they are sampled.")


class TokenizeRequest(Body):
    """POST /v1/tokenize: a text or a conversation."""

    model: str | None = Field(None, description="The model's name, as GET /v1/models gives it.")
    text: str | None = Field(None, max_length=1 << 18)
    messages: Messages | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> TokenizeRequest:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give either text or messages")
        return self


REQUESTS = (
    ChatRequest, CompletionRequest, SimpleRequest, SimpleBatchRequest, TokenizeRequest,
    StreamOptions, Message, TextPart,
)  # fmt: skip
FIELD_NAMES = sorted({name for request in REQUESTS for name in request.model_fields})
