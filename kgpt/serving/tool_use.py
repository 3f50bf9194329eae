"""The tools of one request: how the prompt presents them, and the calls in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kgpt.config import StructuredOutputConfig
from kgpt.errors import UsageError
from kgpt.protocol import GenerationChunk
from kgpt.serving.formats import ChatCompletionFormat, finish_fields
from kgpt.serving.ignored_fields import current_request
from kgpt.serving.schemas import ChatRequest
from kgpt.serving.state import ServerState
from kgpt.serving.tools import NamedToolChoice, forced_tools
from kgpt.text.chat_template import Chat
from kgpt.text.tool_call_grammar import MAX_CALLS, tool_call_grammar
from kgpt.text.tool_call_parser import ToolCallDelta, ToolCallParser
from kgpt.text.tool_calls import ToolCallFormat


@dataclass(frozen=True)
class ToolUse:
    """How a request uses tools.

    Attributes:
        format: of the model's calls.
        tools: as the chat template takes them.
        max_calls: calls in an answer; None is any number.
        special_ids: ids of the model's special tokens.
        forced: the tools of which one must be called; None if none must.
    """

    format: ToolCallFormat
    tools: list[dict[str, Any]] = field(default_factory=list)
    max_calls: int | None = None
    special_ids: dict[str, int] = field(default_factory=dict)
    forced: list[dict[str, Any]] | None = None

    @property
    def keep_special(self) -> frozenset[str]:
        """Marks of calls, which are part of the text although they may be special tokens."""
        return frozenset(filter(None, (*self.format.starts, self.format.end)))

    def structured_output(
        self, asked: StructuredOutputConfig | None
    ) -> StructuredOutputConfig | None:
        """What the text must follow.

        Args:
            asked: what the request wants of an answer that is not a call.

        Raises:
            UsageError: `asked` is not about JSON, and calls may be made.
        """
        if self.forced is None and asked is None:
            return None
        answer = None
        if self.forced is None and asked is not None:
            answer = {"type": "object"} if asked.json_object else asked.json_schema
            if answer is None:
                raise UsageError(
                    "With tools, an answer can follow a JSON schema, and no other form."
                )
        grammar = tool_call_grammar(
            self.format,
            self.tools if self.forced is None else self.forced,
            self.special_ids,
            self.max_calls or MAX_CALLS,
            answer,
        )
        return StructuredOutputConfig.parse({"grammar": grammar})

    def parser(self, stream: bool) -> ToolCallParser:
        """A parser of one answer."""
        names = [tool["function"]["name"] for tool in self.tools]
        return ToolCallParser(self.format, names, stream)


def tool_use_of(body: ChatRequest, state: ServerState, chat_template: Chat) -> ToolUse | None:
    """How `body` uses tools; None if it uses none.

    Raises:
        UsageError: the chat template does not render tools.
    """
    if not (body.tools and body.uses_tools()):
        return None
    format = chat_template.tool_call_format
    if format is None:
        raise UsageError(
            "This model's chat template does not render tools, or has calls in a form that is not "
            "supported; leave tools out."
        )
    forced = forced_tools(body.tools, body.tool_choice)
    is_one = body.parallel_tool_calls is False or isinstance(body.tool_choice, NamedToolChoice)
    special = state.generator.tokenizer.special_by_id
    return ToolUse(
        format,
        [tool.as_dict() for tool in body.tools],
        1 if is_one else None,
        {text: token_id for token_id, text in special.items()},
        None if forced is None else [tool.as_dict() for tool in forced],
    )


def template_variables(body: ChatRequest, chat_template: Chat) -> dict[str, Any]:
    """`chat_template_kwargs`; those that the template does not read are reported as ignored."""
    values = body.chat_template_kwargs or {}
    unread = [name for name in values if name not in chat_template.variables]
    if unread and (fields := current_request.get(None)):
        all_of_it = ["chat_template_kwargs"] if len(unread) == len(values) else None
        ignored = all_of_it or [f"chat_template_kwargs.{name}" for name in unread]
        fields.ignored = (*fields.ignored, *ignored)
    return values


def chat_format(logprobs: bool, tool_use: ToolUse | None) -> ChatCompletionFormat:
    """How a chat's answers are encoded."""
    return (
        ToolCallCompletionFormat(logprobs, tool_use) if tool_use else ChatCompletionFormat(logprobs)
    )


class ToolCallCompletionFormat(ChatCompletionFormat):
    """`chat.completion` and its chunks, with calls read from the text."""

    def __init__(self, logprobs: bool, tool_use: ToolUse):
        super().__init__(logprobs)
        self.tool_use = tool_use
        self._parsers: dict[int, ToolCallParser] = {}  # of each completion that is streamed

    def deltas(self, chunk: GenerationChunk) -> list[dict[str, Any]]:
        is_last = chunk.finish_reason is not None
        parser = self._parsers.setdefault(chunk.index, self.tool_use.parser(stream=True))
        events = self._kept(parser.feed(chunk.text, last=is_last))
        deltas = [delta_of(event) for event in events]
        if not deltas and (is_last or chunk.tokens):
            deltas = [{}]
        choices: list[dict[str, Any]] = [
            {"index": chunk.index, "delta": delta, "logprobs": None, "finish_reason": None}
            for delta in deltas
        ]
        if choices:
            choices[0]["logprobs"] = self._logprobs(chunk)
            choices[-1] |= self._finish_fields(chunk, parser)
        return choices

    def choice(self, completion: GenerationChunk) -> dict[str, Any]:
        parser = self.tool_use.parser(stream=False)
        events = self._kept(parser.feed(completion.text, last=True))
        choice = super().choice(completion)
        content = "".join(event for event in events if isinstance(event, str))
        if parser.num_calls:
            choice["message"]["content"] = content or None
            choice["message"]["tool_calls"] = whole_calls(events)
        return choice | self._finish_fields(completion, parser)

    def _kept(self, events: Sequence[str | ToolCallDelta]) -> list[str | ToolCallDelta]:
        """`events` without calls that are too many."""
        limit = self.tool_use.max_calls
        return [
            event
            for event in events
            if isinstance(event, str) or limit is None or event.index < limit
        ]

    def _finish_fields(self, chunk: GenerationChunk, parser: ToolCallParser) -> dict[str, Any]:
        fields = finish_fields(chunk)
        if fields["finish_reason"] == "stop" and parser.num_calls:
            fields["finish_reason"] = "tool_calls"
        return fields


def delta_of(event: str | ToolCallDelta) -> dict[str, Any]:
    """An event as the `delta` of a chunk."""
    if isinstance(event, str):
        return {"content": event}
    function: dict[str, Any] = {"arguments": event.arguments}
    if event.name is None:
        return {"tool_calls": [{"index": event.index, "function": function}]}
    head = {"index": event.index, "id": event.id, "type": "function"}
    return {"tool_calls": [head | {"function": {"name": event.name} | function}]}


def whole_calls(events: Sequence[str | ToolCallDelta]) -> list[dict[str, Any]]:
    """The calls of a whole answer, as `tool_calls` of its message."""
    calls: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, str):
            continue
        if event.name is not None:
            function = {"name": event.name, "arguments": ""}
            calls.append({"id": event.id, "type": "function", "function": function})
        calls[event.index]["function"]["arguments"] += event.arguments
    return calls
