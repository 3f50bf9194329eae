"""Tools in chat requests, as in the OpenAI API: functions that the model may ask to be called."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kgpt.serving.body import Body, max_items

MAX_TOOLS = 128
MAX_CALLS = 128  # of one message
Name = Annotated[str, Field(pattern=r"^[\w.:-]{1,128}$")]


class FunctionDefinition(Body):
    """A function that the model may call."""

    ignored: ClassVar[frozenset[str]] = frozenset(("strict",))

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of an object.")

    def as_dict(self) -> dict[str, Any]:
        """As chat templates take it: without parameters, it takes an object without properties."""
        head = {"name": self.name, "description": self.description or ""}
        return head | {"parameters": self.parameters or {"type": "object", "properties": {}}}


class FunctionTool(Body):
    """An item of `tools`."""

    type: Literal["function"]
    function: FunctionDefinition

    def as_dict(self) -> dict[str, Any]:
        return {"type": "function", "function": self.function.as_dict()}


class NamedFunction(Body):
    """The function of a `tool_choice`."""

    name: Name


class NamedToolChoice(Body):
    """A `tool_choice` of one function."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class FunctionCall(Body):
    """The function and the arguments of an earlier call."""

    name: str
    arguments: str | dict[str, Any] = Field("", description="JSON text of an object.")

    def as_dict(self) -> dict[str, Any]:
        """With the arguments as an object, or as text where a model did not write a JSON object."""
        return {"name": self.name, "arguments": as_object(self.arguments)}


class AssistantToolCall(Body):
    """A call in an earlier message of the assistant."""

    ignored: ClassVar[frozenset[str]] = frozenset(("index", "extra_content"))

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": self.function.as_dict()}


Tools = Annotated[list[FunctionTool], max_items(MAX_TOOLS)]
ToolCalls = Annotated[list[AssistantToolCall], max_items(MAX_CALLS)]


def as_object(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    """The arguments of a call as an object, if they are the JSON text of one.

    >>> as_object('{"x": 1}'), as_object(""), as_object("x = 1")
    ({'x': 1}, {}, 'x = 1')
    """
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def forced_tools(
    tools: Collection[FunctionTool], choice: ToolChoice | None
) -> list[FunctionTool] | None:
    """The tools of which one must be called; None if none must.

    Raises:
        ValueError: `choice` is none of `tools`.
    """
    if choice == "required":
        chosen = list(tools)
    elif isinstance(choice, NamedToolChoice):
        chosen = [tool for tool in tools if tool.function.name == choice.function.name]
    else:
        return None
    if not chosen:
        name = f"the function {choice.function.name!r}" if choice != "required" else "a function"
        raise ValueError(f"tool_choice asks for {name}, which is not among the tools")
    return chosen


def check_template_variables(values: Mapping[str, Any] | None) -> None:
    """Raise `ValueError` if `chat_template_kwargs` has what other fields decide."""
    reserved = ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message")
    for name in reserved:
        if name in (values or {}):
            raise ValueError(f"chat_template_kwargs cannot set {name}; it is a field of its own")
