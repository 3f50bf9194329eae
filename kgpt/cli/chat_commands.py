"""The state of `kgpt chat`, messages and sampling parameters, and its slash commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kgpt.config import SamplingConfig, did_you_mean, parse_yaml
from kgpt.conversations import Message, parse_messages
from kgpt.errors import UsageError
from kgpt.files import os_errors_as_kgpt, write_text

HELP = """\
/system TEXT      set the system prompt; without TEXT, remove it
/set KEY VALUE    set a sampling option, as in /set temperature 0.7; without KEY, show all
/adapter NAME     answer with an adapter; without NAME, with the model itself
/retry            generate the last answer again
/undo             remove the last question and answer
/clear            start a new conversation
/history          show the conversation
/save FILE        save the conversation: as JSON if the name ends in .json, else as Markdown;
                  /save! FILE replaces a file
/load FILE        continue a conversation saved as JSON
/quit             quit, as does the end of the input
Ctrl-C stops an answer, not the program. A line that ends with \\ continues in the next."""


@dataclass
class ChatState:
    """Messages, sampling parameters and adapter of a chat."""

    sampling: SamplingConfig
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)  # that --adapter names
    adapter: str | None = None  # in use

    def prompt(self) -> list[Message]:
        """All messages, beginning with the system prompt."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages]

    def add(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def remove_last_answer(self) -> bool:
        """Remove the last answer; False if no question is left to answer."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return bool(self.messages)

    def undo(self) -> None:
        """Remove the last question and its answer."""
        while self.messages and self.messages.pop()["role"] != "user":
            pass

    def command(self, line: str, say: Callable[[str], None]) -> bool:
        """Execute a slash command; True if the model should answer.

        Raises:
            UsageError: the command or its argument is invalid.
        """
        name, _, rest = line[1:].partition(" ")
        action = COMMANDS.get(name)
        if action is None:
            hint = did_you_mean(name, COMMANDS, "/") or "/help lists the commands."
            raise UsageError(f"There is no command /{name}; {hint}")
        return bool(action(self, rest.strip(), say))


def _system(chat: ChatState, rest: str, say: Any) -> None:
    chat.system = rest or None
    say("System prompt set." if rest else "System prompt removed.")


def _set(chat: ChatState, rest: str, say: Any) -> None:
    key, _, value = rest.replace("=", " ", 1).partition(" ")
    key = key.replace("-", "_")
    if not key:
        for name, value in chat.sampling.model_dump().items():
            say(f"{name:20} {value}")
        return
    try:
        values = chat.sampling.model_dump() | {key: parse_yaml(value) if value else None}
    except ValueError:
        raise UsageError(f"{value} cannot be parsed; quote it, as in YAML.") from None
    chat.sampling = SamplingConfig.parse(values)
    say(f"{key} is {getattr(chat.sampling, key)}.")


def _adapter(chat: ChatState, rest: str, say: Any) -> None:
    if rest and rest not in chat.adapters:
        known = ", ".join(chat.adapters) or "none; --adapter NAME=FOLDER loads one"
        raise UsageError(f"There is no adapter {rest!r}; loaded: {known}.")
    chat.adapter = rest or None
    say(f"The adapter is {rest}." if rest else "The model itself answers.")


def _retry(chat: ChatState, rest: str, say: Any) -> bool:
    if not chat.remove_last_answer():
        raise UsageError("There is no question to answer yet.")
    return True


def _undo(chat: ChatState, rest: str, say: Any) -> None:
    chat.undo()
    say("Removed.")


def _clear(chat: ChatState, rest: str, say: Any) -> None:
    chat.messages = []
    say("A new conversation.")


def _history(chat: ChatState, rest: str, say: Any) -> None:
    for message in chat.prompt():
        say(f"{message['role']}: {message['content']}")


def _save(chat: ChatState, rest: str, say: Any, replace: bool = False) -> None:
    if not rest:
        raise UsageError("/save needs the name of a file.")
    path = Path(rest).expanduser()
    if path.exists() and not replace:
        raise UsageError(f"{path} exists; choose another name, or replace it with /save! {rest}")
    if path.suffix == ".json":
        text = json.dumps({"messages": chat.prompt()}, ensure_ascii=False, indent=2)
    else:
        parts = (f"**{m['role']}**\n\n{m['content']}\n" for m in chat.prompt())
        text = "\n".join(parts)
    with os_errors_as_kgpt(f"write {path}"):
        write_text(path, text)
    say(f"Saved to {path}.")


def _replace(chat: ChatState, rest: str, say: Any) -> None:
    _save(chat, rest, say, replace=True)


def _load(chat: ChatState, rest: str, say: Any) -> None:
    path = Path(rest).expanduser()
    with os_errors_as_kgpt(f"read {path}"):
        content = path.read_bytes()
    try:
        loaded = json.loads(content.decode("utf-8-sig"))
        messages = parse_messages(loaded["messages"] if isinstance(loaded, dict) else loaded)
    except KeyError:
        raise UsageError(f"{path} is not a conversation saved as JSON: no messages.") from None
    except ValueError as error:
        raise UsageError(f"{path} is not a conversation saved as JSON: {error}.") from None
    chat.system = None
    if messages and messages[0]["role"] == "system":
        chat.system = messages.pop(0)["content"]
    chat.messages = messages
    say(f"Loaded {len(messages)} messages.")


def _quit(chat: ChatState, rest: str, say: Any) -> None:
    raise EOFError


def _help(chat: ChatState, rest: str, say: Any) -> None:
    say(HELP)


COMMANDS: dict[str, Callable[[ChatState, str, Any], Any]] = {
    "system": _system,
    "set": _set,
    "adapter": _adapter,
    "retry": _retry,
    "undo": _undo,
    "clear": _clear,
    "history": _history,
    "save": _save,
    "save!": _replace,
    "load": _load,
    "quit": _quit,
    "exit": _quit,
    "help": _help,
}
