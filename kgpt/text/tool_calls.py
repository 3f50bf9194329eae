"""How a model writes tool calls, found from its chat template.

    <tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>         Hermes, Qwen, SmolLM
    [TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}]                  Mistral
    {"name": "f", "parameters": {"x": 1}}                               Llama 3

The template is rendered with a call whose name is known, and the text around it is read; the
model's name decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kgpt.errors import UsageError
from kgpt.text.tokenizer import clean

PYTHON_TAG = "<|python_tag|>"  # with which Llama 3 may begin a call
NAME, ARGUMENT, ANSWER = "kgpt_probe", "kgpt_argument", "¤kgpt answer"
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "A function.",
        "parameters": {
            "type": "object",
            "properties": {ARGUMENT: {"type": "string", "description": "A word."}},
            "required": [ARGUMENT],
        },
    },
}
DESCRIBED = re.compile(r"<tool_call>\s*\[?\s*\{\"name\"")
MARKER = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
USER = {"role": "user", "content": "Hello"}


@dataclass(frozen=True)
class ToolCallFormat:
    """The form of a model's tool calls.

    Attributes:
        start: text that begins calls, such as `<tool_call>`; empty if a message that is a call
            begins with its JSON.
        end: text that ends them, such as `</tool_call>`; may be empty.
        is_list: the calls between `start` and `end` are one JSON list.
        arguments_key: the key of the arguments, "arguments" or "parameters".
        arguments_are_text: the template takes arguments as JSON text, not as an object.
        renders_calls: the template renders the calls of earlier messages.
        short_ids: the template takes only call ids of nine letters and digits.
    """

    start: str
    end: str = ""
    is_list: bool = False
    arguments_key: str = "arguments"
    arguments_are_text: bool = False
    renders_calls: bool = True
    short_ids: bool = False

    @property
    def starts(self) -> tuple[str, ...]:
        """Every text that begins calls wherever it stands in a message."""
        return (self.start,) if self.start else (PYTHON_TAG,)

    def write(self, calls: Sequence[Mapping[str, Any]]) -> str:
        """Calls as the model writes them, each {"name": ..., "arguments": object}."""
        objects = [
            json.dumps(
                {"name": call["name"], self.arguments_key: call["arguments"]}, ensure_ascii=False
            )
            for call in calls
        ]
        if self.is_list:
            return f"{self.start}[{', '.join(objects)}]{self.end}"
        if not self.start:
            return "; ".join(objects)
        return "\n".join(f"{self.start}\n{one}\n{self.end}".rstrip() for one in objects)


class Render(Protocol):
    """`Template.render`."""

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str: ...


def find_tool_call_format(render: Render) -> ToolCallFormat | None:
    """The form of calls of a chat template.

    Returns:
        None if the template renders no tools, or calls in a form that is none of the above.
    """
    try:
        prompt = render([USER], add_generation_prompt=True, tools=[TOOL])
    except UsageError:
        return None
    if NAME not in prompt:
        return None
    for as_text in (False, True):
        for call_id in ("call_kgpt_probe", "kgptprobe"):
            found = _rendered_call(render, as_text, call_id)
            if found is not None:
                return found
    if DESCRIBED.search(prompt):  # to the model, but earlier calls are not rendered
        return ToolCallFormat("<tool_call>", "</tool_call>", renders_calls=False)
    return None


def with_template_calls(
    messages: Sequence[Mapping[str, Any]], find_format: Callable[[], ToolCallFormat | None]
) -> Sequence[Mapping[str, Any]]:
    """Messages whose calls and ids are as the template takes them.

    Args:
        messages: with {"id", "function": {"name", "arguments"}} in `tool_calls`; arguments are an
            object, or text that is not a JSON object, as a model may write it.
        find_format: called if there are calls or results; None if the model has no tools.

    Raises:
        UsageError: the model has no tool calls.
    """
    if not any("tool_calls" in one or one["role"] == "tool" for one in messages):
        return messages
    if (format := find_format()) is None:
        raise UsageError(
            "This model's chat template renders no tool calls; send their text as content."
        )
    return [_with_template_calls(message, format) for message in messages]


def _with_template_calls(message: Mapping[str, Any], format: ToolCallFormat) -> Mapping[str, Any]:
    changed = dict(message)
    if format.short_ids and "tool_call_id" in message:
        changed["tool_call_id"] = _short_id(message["tool_call_id"])
    calls = message.get("tool_calls")
    if not calls:
        return changed
    if not format.renders_calls:
        written = format.write([call["function"] for call in calls])
        del changed["tool_calls"]
        return changed | {"content": "\n".join(filter(None, (message["content"], written)))}
    return changed | {"tool_calls": [_template_call(call, format) for call in calls]}


def _template_call(call: Mapping[str, Any], format: ToolCallFormat) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if format.arguments_are_text and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    changed = {**call, "type": "function", "function": {**function, "arguments": arguments}}
    return changed | ({"id": _short_id(call["id"])} if format.short_ids and "id" in call else {})


def _short_id(call_id: str) -> str:
    """`call_id`, or nine letters and digits that stand for it."""
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(clean(call_id).encode()).hexdigest()[:9]


def _rendered_call(render: Render, as_text: bool, call_id: str) -> ToolCallFormat | None:
    """The form of a call of the template, with arguments as text or as an object."""
    arguments: Any = {ARGUMENT: "word"}
    function = {"name": NAME, "arguments": json.dumps(arguments) if as_text else arguments}
    call = {"id": call_id, "type": "function", "function": function}
    try:
        answer = render([USER, {"role": "assistant", "content": ANSWER}], tools=[TOOL])
        text = render(
            [USER, {"role": "assistant", "content": "", "tool_calls": [call]}], tools=[TOOL]
        )
    except UsageError:
        return None
    begin, end, key = _call_object(text, arguments)
    if key is None:
        return None
    # What precedes the answer of a message without calls is its header.
    before = text[common_prefix_length(text, answer) : begin].rstrip()
    is_list = before.endswith("[")
    before = before.removesuffix("[").strip()
    if before and not MARKER.fullmatch(before):
        return None
    closing = f"{before[0]}/{before[1:]}" if before else ""
    after = text[end:].lstrip().removeprefix("]" if is_list else "").lstrip()
    end_marker = closing if after.startswith(closing) else ""
    return ToolCallFormat(
        before, end_marker, is_list, key, as_text, short_ids=call_id == "kgptprobe"
    )


def _call_object(text: str, arguments: Any) -> tuple[int, int, str | None]:
    """Where the JSON object of the call is in `text`, and its key of the arguments, if any."""
    decoder = json.JSONDecoder()
    for found in reversed(list(re.finditer(r"\{", text))):
        try:
            value, end = decoder.raw_decode(text, found.start())
        except ValueError:
            continue
        for key in ("arguments", "parameters"):
            if value.get("name") == NAME and value.get(key) == arguments:
                return found.start(), end, key
    return 0, 0, None


def common_prefix_length(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
