"""What `kgpt chat` keeps: messages, settings, and the words that begin with a slash."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kgpt.config import SamplingConfig, did_you_mean
from kgpt.errors import UsageError

HELP = """\
/system TEXT      what the model is told before the conversation; alone, forget it
/set KEY VALUE    a sampling setting, such as /set temperature 0.7; alone, show them
/retry            answer again
/undo             forget the last question and answer
/clear            begin anew
/history          show the conversation
/save FILE        write it to a file: Markdown, or JSON when the name ends in .json
/load FILE        go on with a conversation saved as JSON
/quit             leave; so does the end of the input
Ctrl-C stops an answer, not the program. A line that ends with \\ goes on in the next."""


@dataclass
class Conversation:
    """Messages and settings of one chat."""

    sampling: SamplingConfig
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    def prompt(self) -> list[dict[str, str]]:
        """All messages, the system's first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    def add(self, role: str, content: str) -> None:
        self.messages.append({"role": role, "content": content})

    def take_back(self) -> bool:
        """Remove the last answer, so that it can be given again; False if there is none to give."""
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
        return bool(self.messages)

    def undo(self) -> None:
        """Remove the last question and what came after it."""
        while self.messages and self.messages.pop()["role"] != "user":
            pass

    def command(self, line: str, say: Callable[[str], None]) -> bool:
        """Carry out a slash command; True if the model should answer (again).

        Raises:
            UsageError: the command or its argument makes no sense.
        """
        name, _, rest = line[1:].partition(" ")
        action = COMMANDS.get(name)
        if action is None:
            hint = did_you_mean(name, COMMANDS, "/") or "/help lists the commands."
            raise UsageError(f"There is no command /{name}; {hint}")
        return bool(action(self, rest.strip(), say))


def _system(chat: Conversation, rest: str, say: Any) -> None:
    chat.system = rest or None
    say("System prompt set." if rest else "System prompt forgotten.")


def _set(chat: Conversation, rest: str, say: Any) -> None:
    key, _, value = rest.partition(" ")
    key = key.replace("-", "_")
    if not key:
        for name, held in chat.sampling.model_dump().items():
            say(f"{name:20} {held}")
        return
    values = chat.sampling.model_dump() | {key: yaml.safe_load(value) if value else None}
    chat.sampling = SamplingConfig.parse(values)
    say(f"{key} is {getattr(chat.sampling, key)}.")


def _retry(chat: Conversation, rest: str, say: Any) -> bool:
    if not chat.take_back():
        raise UsageError("There is nothing to answer yet.")
    return True


def _undo(chat: Conversation, rest: str, say: Any) -> None:
    chat.undo()
    say("Forgotten.")


def _clear(chat: Conversation, rest: str, say: Any) -> None:
    chat.messages = []
    say("A new conversation.")


def _history(chat: Conversation, rest: str, say: Any) -> None:
    for message in chat.prompt():
        say(f"{message['role']}: {message['content']}")


def _save(chat: Conversation, rest: str, say: Any) -> None:
    if not rest:
        raise UsageError("/save needs the name of a file.")
    path = Path(rest).expanduser()
    if path.suffix == ".json":
        text = json.dumps({"messages": chat.prompt()}, ensure_ascii=False, indent=2)
    else:
        parts = (f"**{m['role']}**\n\n{m['content']}\n" for m in chat.prompt())
        text = "\n".join(parts)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    say(f"Saved to {path}.")


def _load(chat: Conversation, rest: str, say: Any) -> None:
    path = Path(rest).expanduser()
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))["messages"]
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in loaded]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no conversation saved as JSON: {error}.") from None
    chat.system = None
    if messages and messages[0]["role"] == "system":
        chat.system = messages.pop(0)["content"]
    chat.messages = messages
    say(f"{len(messages)} messages.")


def _quit(chat: Conversation, rest: str, say: Any) -> None:
    raise EOFError


def _help(chat: Conversation, rest: str, say: Any) -> None:
    say(HELP)


COMMANDS: dict[str, Callable[[Conversation, str, Any], Any]] = {
    "system": _system,
    "set": _set,
    "retry": _retry,
    "undo": _undo,
    "clear": _clear,
    "history": _history,
    "save": _save,
    "load": _load,
    "quit": _quit,
    "exit": _quit,
    "help": _help,
}
