"""A grammar of tool calls, for answers that must be calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kgpt.text.tool_calls import ToolCallFormat

MAX_CALLS = 8  # in an answer that must be calls
DEFINITIONS = ("$defs", "definitions")  # of a schema, which references find at its root
# JSON as models are trained to write calls.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def tool_call_grammar(
    format: ToolCallFormat,
    tools: Sequence[Mapping[str, Any]],
    special_ids: Mapping[str, int],
    max_calls: int = MAX_CALLS,
    answer: Mapping[str, Any] | None = None,
) -> str:
    """A grammar of llguidance, in Lark's form: a text of one to `max_calls` calls.

    Args:
        tools: as the chat template takes them; each call is of one of them, with arguments that
            its parameters, a JSON schema, describe.
        special_ids: ids of the special tokens, of which the marks of calls may be some.
        answer: a JSON schema of texts that are allowed too; None if only calls are.
    """

    def mark(text: str) -> str:
        return f"<[{special_ids[text]}]>" if text in special_ids else json.dumps(text)

    start, end = format.start, format.end
    more = max_calls - 1 if start else 0  # without marks, templates take one call in a message
    if format.is_list:
        last = f' "]" {mark(end)}' if end else ' "]"'
        calls = f'{mark(start)} "[" call{_repeated(", ", "call", more)}{last}'
    elif not start:
        calls = "call"
    else:
        last = f' "\\n" {mark(end)}' if end else ""
        marked = f'{mark(start)} "\\n" call{last}'
        calls = f"{marked}{_repeated(chr(10), marked, more)}"
    names = [f"call_{i}" for i in range(len(tools))]
    schemas = [call_schema(format, tool["function"]) for tool in tools]
    rules = [f"{name}: %json {json.dumps(one)}" for name, one in zip(names, schemas, strict=True)]
    if answer is not None:
        rules.append(f"answer: %json {json.dumps({**answer, 'x-guidance': JSON_STYLE})}")
        calls = f"{calls} | answer"
    return "\n".join([f"start: {calls}", f"call: {' | '.join(names)}", *rules])


def _repeated(separator: str, rule: str, most: int) -> str:
    return f" ({json.dumps(separator)} {rule}){{0,{most}}}" if most else ""


def call_schema(format: ToolCallFormat, function: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema of the object that calls `function`.

    Properties that the function does not declare are left out, unless it allows them.
    """
    parameters = {"type": "object", "additionalProperties": False} | function["parameters"]
    shared = {name: parameters.pop(name) for name in DEFINITIONS if name in parameters}
    names = {"name": {"const": function["name"]}, format.arguments_key: parameters}
    return {
        "type": "object",
        "properties": names,
        "required": list(names),
        "additionalProperties": False,
        "x-guidance": JSON_STYLE,
        **shared,
    }
