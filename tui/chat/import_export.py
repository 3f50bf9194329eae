"""Conversations as files: Markdown to read and to edit, JSON with the whole tree."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from kgpt.conversations import parse_messages
from kgpt.errors import KgptError, UsageError
from kgpt.files import os_errors_as_kgpt, write_text
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.migrations import renamed_sampling_fields

FORMAT = "kgpt-conversation"
HEADING = re.compile(r"^<!-- kgpt:(system|user|assistant|text) -->$", re.MULTILINE)
NAMES = {"system": "System", "user": "You", "assistant": "Model", "text": "Model"}
MESSAGE_FIELDS = [f.name for f in fields(Message) if f.name != "tokens"]
LARGEST = 64 << 20  # bytes of a file that is read


def export(conversation: Conversation, path: Path, replace: bool = False) -> None:
    """Write `conversation`: the path that is shown as .md, or all branches as .json.

    Raises:
        UsageError: the name has another ending, or `path` exists and `replace` is false.
    """
    kind = path.suffix.lower()
    if kind not in (".md", ".json"):
        raise UsageError(f"{path.name} should end in .md or .json, which tell how to write it.")
    if path.exists() and not replace:
        raise UsageError(f"{path} exists; choose another name, or replace it with /export! {path}")
    text = as_markdown(conversation) if kind == ".md" else as_json(conversation)
    with os_errors_as_kgpt(f"write {path}"):
        write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def as_markdown(conversation: Conversation) -> str:
    """The shown path; comments that Markdown readers hide say whose each part is."""
    parts = [f"# {conversation.title or 'Conversation'}\n"]
    turns = [("system", conversation.system)] if conversation.system else []
    turns += [(message.role, message.content) for message in conversation.path]
    for role, content in turns:
        quoted = re.sub(r"(?m)^<!-- kgpt:", "<!--\u00a0kgpt:", content)
        parts.append(f"<!-- kgpt:{role} -->\n**{NAMES[role]}**\n\n{quoted}\n")
    return "\n".join(parts)


def as_json(conversation: Conversation) -> str:
    """Everything but the tokens' probabilities."""
    messages = [
        {name: getattr(message, name) for name in MESSAGE_FIELDS}
        for message in conversation.messages.values()
    ]
    body = {
        "format": FORMAT, "version": 1, "title": conversation.title,
        "system": conversation.system, "sampling": conversation.sampling,
        "leaf": conversation.leaf, "messages": messages,
    }  # fmt: skip
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"


def read_conversation(path: Path) -> Conversation:
    """A conversation from a file of either kind, or from a JSON list of role and content."""
    with os_errors_as_kgpt(f"read {path}"):
        if path.stat().st_size > LARGEST:
            raise KgptError(f"{path} is too large for a conversation.")
        raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
        found = _from_json(json.loads(text)) if path.suffix == ".json" else _from_markdown(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise KgptError(f"{path} holds no conversation that can be read.") from None
    found.title = found.title or path.stem
    return found


def _from_markdown(text: str) -> Conversation:
    parts = HEADING.split(text)
    if len(parts) < 3:
        raise ValueError("no turns")
    title = parts[0].strip().removeprefix("# ").strip()
    conversation = Conversation(title=title)
    for role, part in zip(parts[1::2], parts[2::2], strict=True):
        content = part.split("\n\n", 1)[-1].removesuffix("\n\n").removesuffix("\n")
        content = content.replace("<!--\u00a0kgpt:", "<!-- kgpt:")
        if role == "system":
            conversation.system = content
        else:
            _append(conversation, role, content)
    return conversation


def _from_json(body: Any) -> Conversation:
    if isinstance(body, list) or "format" not in body:
        turns = body if isinstance(body, list) else body["messages"]
        conversation = Conversation()
        for turn in parse_messages(turns):
            if turn["role"] == "system":
                conversation.system = turn["content"]
            else:
                _append(conversation, turn["role"], turn["content"])
        return conversation
    conversation = Conversation(
        title=str(body["title"]),
        system=str(body["system"]),
        sampling=renamed_sampling_fields(dict(body["sampling"])),
    )
    new = {entry["id"]: Message("user", "").id for entry in body["messages"]}
    for entry in body["messages"]:
        known = {name: entry[name] for name in MESSAGE_FIELDS if name in entry}
        message = Message(**(known | {"id": new[entry["id"]], "parent": new.get(entry["parent"])}))
        _checked(message)
        conversation.messages[message.id] = message
    conversation.leaf = new.get(body["leaf"])
    if conversation.leaf is None and (roots := conversation.children(None)):
        conversation.show(roots[-1])
    return conversation


def _append(conversation: Conversation, role: Any, content: str) -> None:
    finish = "imported" if role != "user" else ""
    message = Message(role, content, conversation.leaf, prefix=content, finish=finish)
    conversation.add(_checked(message))


def _checked(message: Message) -> Message:
    names = ("content", "prefix", "finish", "error", "model", "receipt")
    texts = [getattr(message, name) for name in names]
    if message.role not in NAMES or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a message")
    message.created, message.seconds = float(message.created), float(message.seconds)
    return message
