"""The body of POST /v1/responses: the OpenAI Responses API, without anything that is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from kgpt.config import StructuredOutputConfig
from kgpt.errors import UsageError
from kgpt.serving.body import Body, SamplingFields, max_items
from kgpt.serving.compatibility import (
    IGNORED,
    IGNORED_IN_MESSAGES,
    REMEDIES,
    UNSUPPORTED,
    Neutral,
)
from kgpt.serving.schemas import MAX_MESSAGES, MAX_TOP_LOGPROBS, StreamOptions
from kgpt.serving.structured_output import ResponseFormat

LOGPROBS = "message.output_text.logprobs"  # in `include`
PART_TYPES = ("input_text", "output_text", "text", "refusal")


class InputPart(Body):
    """A content part of an input message. Only text is supported."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        ("annotations", "logprobs", "parsed", "prompt_cache_breakpoint")
    )

    type: Literal["input_text", "output_text", "text", "refusal"]
    text: str = ""
    refusal: str = ""


class InputMessage(Body):
    """A message of the input; an answer of this server can be sent back as it came."""

    ignored: ClassVar[frozenset[str]] = IGNORED_IN_MESSAGES | {"phase", "status"}

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[InputPart], max_items(MAX_MESSAGES)]

    @model_validator(mode="before")
    @classmethod
    def _only_messages(cls, item: Any) -> Any:
        kind = item.get("type", "message") if isinstance(item, dict) else "message"
        if kind == "item_reference":
            raise ValueError(f"item_reference is not supported; {REMEDIES['conversation']}")
        if kind != "message":
            raise ValueError(
                f"items of the type {str(kind)[:40]!r} are not supported; send messages"
            )
        return item

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, content: Any) -> Any:
        parts = content if isinstance(content, list) else []
        kinds = [part.get("type") for part in parts if isinstance(part, dict)]
        if other := [kind for kind in kinds if kind not in PART_TYPES]:
            raise ValueError(
                f"parts of the type {str(other[0])[:40]!r} are not supported; send text"
            )
        return content

    def as_dict(self) -> dict[str, str]:
        """{"role", "content"}: parts are joined, and the role developer becomes system."""
        content = self.content
        if not isinstance(content, str):
            content = "".join(part.text or part.refusal for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


InputMessages = Annotated[list[InputMessage], Field(min_length=1), max_items(MAX_MESSAGES)]


class TextOptions(Body):
    """The form of the answer."""

    unsupported: ClassVar[Mapping[str, Neutral]] = {"verbosity": ("medium",)}

    format: ResponseFormat | None = Field(
        None, description="text, json_object, or json_schema with a JSON schema."
    )

    def structured_output(self) -> StructuredOutputConfig | None:
        """What the text must follow; None for free text.

        Raises:
            ValueError: its schema is invalid.
        """
        try:
            options = self.format.options() if self.format else {}
            return StructuredOutputConfig.if_given(options, "format")
        except UsageError as error:
            raise ValueError(str(error).removesuffix(".")) from None


class ResponsesRequest(SamplingFields):
    """POST /v1/responses."""

    endpoint: ClassVar[str] = "POST /v1/responses"
    unsupported: ClassVar[Mapping[str, Neutral]] = {
        **UNSUPPORTED,
        "background": (False,),
        "context_management": ([],),
        "conversation": (),
        "moderation": (),
        "previous_response_id": (),
        "prompt": (),
        "reasoning": lambda values: values["reasoning"].get("effort") in (None, "none"),
    }
    ignored: ClassVar[frozenset[str]] = IGNORED | {"max_tool_calls", "prompt_cache_options"}

    model: str | None = Field(None, description="The model's name, as listed by GET /v1/models.")
    input: str | Annotated[list[InputMessage], Field(min_length=1), max_items(MAX_MESSAGES)] = (
        Field(description="A user's message, or the conversation as a list of messages.")
    )
    instructions: str | None = Field(None, description="A system message, put before the input.")
    max_output_tokens: int | None = Field(
        None, ge=1, description="The Responses API's name for max_tokens."
    )
    stream: bool | None = Field(
        None, description="Send the answer as it is generated, as server-sent events."
    )
    stream_options: StreamOptions | None = None
    text: TextOptions | None = None
    include: Annotated[list[str], max_items(64)] | None = Field(
        None, description=f"{LOGPROBS}: return the log-probability of each token."
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Number of most likely tokens to return at each position.",
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None,
        description="auto: leave out the oldest turns of a conversation that would exceed the "
        "context; disabled (default): refuse it.",
    )
    metadata: dict[str, Any] | None = Field(None, description="Returned as it is.")
    store: bool | None = Field(None, description="Nothing is stored, whatever it says.")

    _structured_output: StructuredOutputConfig | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _one_limit(self) -> ResponsesRequest:
        limits = {super().sampling().get("max_tokens"), self.max_output_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_output_tokens and max_tokens disagree; send one of them")
        return self

    @model_validator(mode="after")
    def _read_structured_output(self) -> ResponsesRequest:
        self._structured_output = self.text.structured_output() if self.text else None
        return self

    @property
    def structured_output(self) -> StructuredOutputConfig | None:
        """What the text must follow; None for free text."""
        return self._structured_output

    def sampling(self) -> dict[str, Any]:
        given: dict[str, Any] = super().sampling()
        if self.max_output_tokens is not None:
            given["max_tokens"] = self.max_output_tokens
        return given

    @property
    def num_logprobs(self) -> int | None:
        """The candidates wanted with each token; None if no log-probabilities are wanted."""
        wants = LOGPROBS in (self.include or []) or self.top_logprobs
        return (self.top_logprobs or 0) if wants else None

    def messages(self) -> list[dict[str, str]]:
        """The conversation, with the instructions in the system message that opens it."""
        if isinstance(self.input, str):
            messages = [{"role": "user", "content": self.input}]
        else:
            messages = [item.as_dict() for item in self.input]
        if not self.instructions:
            return messages
        system, rest = [self.instructions], messages
        if messages[0]["role"] == "system":  # templates take one
            system, rest = [self.instructions, messages[0]["content"]], messages[1:]
        return [{"role": "system", "content": "\n\n".join(system)}, *rest]
