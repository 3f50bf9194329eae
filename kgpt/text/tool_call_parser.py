"""Tool calls in generated text, read as it comes.

Text that is not a call passes unchanged, and so does a call that is malformed before its arguments
begin; what follows is read as arguments, as the model writes them.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from kgpt.text.tokenizer import clean
from kgpt.text.tool_calls import ToolCallFormat

# A call's object up to its arguments, as models are trained to write it.
HEADER = re.compile(
    r'\{\s*(?:"(?:type|id)"\s*:\s*"[^"\\]*"\s*,\s*)*"name"\s*:\s*"([^"\\]+)"\s*,\s*'
    r'"(?:arguments|parameters)"\s*:\s*(?=\{)'
)
FIRST_KEY = re.compile(r'\{\s*(?:"([^"]*)("?)|$)')
KEYS = ("name", "arguments", "parameters", "type", "function", "id")
# The rest of the object after the arguments: keys that OpenAI's form has elsewhere, such as "id".
REST = re.compile(r'\s*(?:,\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[\w.+-]+)\s*)*\}')
JSON_OUTSIDE_STRINGS = frozenset(string.digits + string.ascii_letters + " \t\r\n+-.,:")
SEPARATORS = string.whitespace + "[],;"  # between calls, and around a list of them
ID_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class ToolCallDelta:
    """The next part of a call.

    Attributes:
        index: of the call in the message.
        arguments: the next part of the arguments, which are JSON text.
        name: of the function, with the first part of a call; otherwise None.
        id: of the call, with its first part.
    """

    index: int
    arguments: str = ""
    name: str | None = None
    id: str | None = None


Event = str | ToolCallDelta


def new_call_id() -> str:
    """Nine letters and digits, which the templates of all models take."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(9))


class JSONScanner:
    """Finds the end of a JSON object or list in text that comes in parts."""

    def __init__(self) -> None:
        self._closers: list[str] = []
        self._in_string = self._escaped = False

    def scan(self, text: str) -> tuple[int, Literal["open", "closed", "broken"]]:
        """How much of `text` belongs to the value, and how it stands after that."""
        for i, character in enumerate(text):
            if self._in_string:
                self._in_string = self._escaped or character != '"'
                self._escaped = character == "\\" and not self._escaped
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._closers.append("}" if character == "{" else "]")
            elif character in "}]":
                if self._closers.pop() != character:
                    return i, "broken"
                if not self._closers:
                    return i + 1, "closed"
            elif character not in JSON_OUTSIDE_STRINGS:
                return i, "broken"
        return len(text), "open"


class ToolCallParser:
    """Splits the text of one message into content and calls.

    White space before and after calls belongs to neither.

    Args:
        format: of the model's calls.
        names: of the tools that were offered.
        stream: return a call's arguments as they come; otherwise a call is returned when it is
            complete, and stays text if it is not valid JSON.
    """

    def __init__(self, format: ToolCallFormat, names: Collection[str], stream: bool = False):
        self.format, self.names, self.stream = format, frozenset(names), stream
        self.num_calls = 0
        self._text = ""  # not yet read
        self._raw = ""  # read since the last event: content, if it turns out not to be a call
        self._step = self._bare_start if not format.start else self._content
        self._is_bare = False  # the calls have no mark before them
        self._found = False  # a call since their start
        self._scanner = JSONScanner()
        self._last = False

    def feed(self, text: str, last: bool = False) -> list[Event]:
        """The content and the parts of calls that `text` completes; with `last`, all the rest."""
        self._text += text
        self._last = last
        events: list[Event] = []
        while (found := self._step()) is not None:
            events += filter(None, found)
        return merge_text(events)

    # -- steps: each reads from the text and returns events, or None if it needs more text --------

    def _bare_start(self) -> list[Event] | None:
        """The start of a message, which is a call if it begins with a call's JSON."""
        begin = self._text.lstrip()
        if not begin and not self._last:
            return None
        self._is_bare = begin.startswith(("{", "["))
        self._step = self._calls if self._is_bare else self._content
        return []

    def _content(self) -> list[Event] | None:
        found = [(i, mark) for mark in self.format.starts if (i := self._text.find(mark)) >= 0]
        if found:
            index, mark = min(found)
            content = self._text[:index].rstrip()
            end = index + len(mark)
            self._raw, self._text = self._text[len(content) : end], self._text[end:]
            self._step, self._is_bare, self._found = self._calls, False, False
            return [content]
        end = len(self._text) if self._last else self._safe_end()
        content, self._text = self._text[:end], self._text[end:]
        if not content or (self._last and self.num_calls and content.isspace()):
            return None
        return [content]

    def _safe_end(self) -> int:
        """How much of the text cannot belong to the start of calls or the space before it."""
        begun = max(
            (size for mark in self.format.starts for size in range(1, len(mark))
             if self._text.endswith(mark[:size])),
            default=0,
        )  # fmt: skip
        return len(self._text[: len(self._text) - begun].rstrip())

    def _calls(self) -> list[Event] | None:
        """Between the start of calls, the calls, and their end."""
        rest = self._text.lstrip(SEPARATORS)
        end = self.format.end
        if not self._last and (not rest or (end.startswith(rest) and rest != end)):
            return None
        if rest.startswith("{"):
            self._raw += self._text[: len(self._text) - len(rest)]
            self._text, self._step = rest, self._object
            return []
        self._step = self._content
        if not self._found:
            return self._as_content(0)
        if not rest or (end and rest.startswith(end)):
            self._text = rest.removeprefix(end)
        return []

    def _object(self) -> list[Event] | None:
        """One call, from the brace on."""
        header = HEADER.match(self._text)
        if header and self.stream and self._is_offered(header[1]):
            self._text, self._raw = self._text[header.end() :], ""
            self._scanner, self._step, self._found = JSONScanner(), self._arguments, True
            return [ToolCallDelta(self.num_calls, "", header[1], new_call_id())]
        if self._is_bare and not may_begin_call(self._text):
            return self._as_content(1)
        size, status = JSONScanner().scan(self._text)
        value, rest = self._text[:size], self._text[size:]
        end = self.format.end
        if not self._last and (
            status == "open" or (status == "broken" and end.startswith(rest) and rest != end)
        ):
            return None
        if status == "broken" and end and rest.startswith(end):
            value += "}"  # models forget the last one
        call = parse_call(value)
        if call is None or not self._is_offered(call[0]):
            return self._as_content(1)
        self._text, self._raw, self._step, self._found = rest, "", self._calls, True
        self.num_calls += 1
        index = self.num_calls - 1
        return [ToolCallDelta(index, "", call[0], new_call_id()), ToolCallDelta(index, call[1])]

    def _arguments(self) -> list[Event] | None:
        if not self._text:
            return None
        size, status = self._scanner.scan(self._text)
        arguments, self._text = self._text[:size], self._text[size:]
        index = self.num_calls
        if status != "open":
            self.num_calls += 1
            self._step = self._rest
        return [ToolCallDelta(index, arguments)] if arguments else []

    def _rest(self) -> list[Event] | None:
        """What follows the arguments inside of a call's object."""
        found = REST.match(self._text)
        more = self._text.lstrip()
        if not found and not self._last and (not more or (more[0] == "," and "}" not in more)):
            return None
        self._text = self._text[found.end() :] if found else self._text
        self._step = self._calls
        return []

    def _as_content(self, size: int) -> list[Event]:
        """What was read since the last event, and `size` characters more, as content."""
        content = self._raw + self._text[:size]
        self._raw, self._text, self._step = "", self._text[size:], self._content
        return [content]

    def _is_offered(self, name: str) -> bool:
        """Whether it can be a call: without a mark, only one of a tool that was offered."""
        return name in self.names or not self._is_bare


def may_begin_call(text: str) -> bool:
    """Whether an object that begins so can be a call, by its first key."""
    found = FIRST_KEY.match(text)
    if not found or found[1] is None:
        return found is not None
    return found[1] in KEYS if found[2] else any(key.startswith(found[1]) for key in KEYS)


def parse_call(text: str) -> tuple[str, str] | None:
    """The name and the arguments, as JSON text, of a complete call; None if it is none."""
    try:
        value = json.loads(text)
        value = value.get("function", value)
        name, arguments = value["name"], value.get("arguments", value.get("parameters", {}))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        return None
    header = HEADER.match(text)
    if header and header[1] == name:
        begun = text[header.end() :]
        return name, begun[: JSONScanner().scan(begun)[0]]  # as the model wrote them
    return clean(name), clean(json.dumps(arguments, ensure_ascii=False))


def merge_text(events: list[Event]) -> list[Event]:
    """`events` with adjacent texts joined."""
    merged: list[Event] = []
    for event in events:
        if isinstance(event, str) and merged and isinstance(merged[-1], str):
            merged[-1] += event
        else:
            merged.append(event)
    return merged
