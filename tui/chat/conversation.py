"""A conversation as a tree: each message knows its parent, and every alternative is kept.

Messages under the same parent are *siblings*. One path from a root to the *leaf* is shown.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from kgpt.protocol import TokenInfo

Role = Literal["system", "user", "assistant", "text"]
MIN_TIMED_S = 0.05  # an answer that came in one piece has no rate
Mode = Literal["auto", "chat", "text"]  # auto: chat where the model has a chat template


def new_id() -> int:
    """An id that no other process picks: conversations may be written from several at once."""
    return secrets.randbits(62) + 1


@dataclass
class Message:
    """One turn, or (role "text") a piece of a text that a base model goes on with."""

    role: Role
    content: str
    parent: int | None = None
    id: int = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    model: str = ""
    finish: str = ""  # why it ended: stop, length, stopped by the user, an error; "" is unfinished
    error: str = ""
    seconds: float = 0.0
    prompt_tokens: int = 0
    left_out: int = 0  # of the messages before it, where they exceeded the context
    receipt: str = ""  # JSON for `kgpt replay`; "" where the server gave none
    prefix: str = ""  # the beginning that was given, before the first of `tokens`
    tokens: list[TokenInfo] = field(default_factory=list)

    @property
    def is_answer(self) -> bool:
        return self.role in ("assistant", "text")

    @property
    def speed(self) -> float:
        """Tokens a second; 0 where too little time was measured to tell."""
        return len(self.tokens) / self.seconds if self.seconds >= MIN_TIMED_S else 0.0


@dataclass
class Conversation:
    """The tree, and what is particular to this conversation."""

    id: int = field(default_factory=new_id)
    title: str = ""
    system: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    mode: Mode = "auto"
    draft: str = ""
    pinned: bool = False
    created: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    leaf: int | None = None
    messages: dict[int, Message] = field(default_factory=dict)

    @property
    def path(self) -> list[Message]:
        """From the first message to the leaf."""
        return list(reversed(list(self._upwards(self.leaf))))

    def _upwards(self, start: int | None) -> Iterator[Message]:
        seen: set[int] = set()
        while start is not None and start in self.messages and start not in seen:
            seen.add(start)
            message = self.messages[start]
            yield message
            start = message.parent

    def children(self, parent: int | None) -> list[Message]:
        """In the order they came."""
        found = [m for m in self.messages.values() if m.parent == parent]
        return sorted(found, key=lambda message: (message.created, message.id))

    def siblings(self, message: Message) -> list[Message]:
        """All alternatives to `message`, itself among them."""
        return self.children(message.parent)

    def add(self, message: Message) -> Message:
        """Put `message` under its parent and show it."""
        self.messages[message.id] = message
        self.leaf = message.id
        self.updated = time.time()
        return message

    def show(self, message: Message) -> None:
        """Show the path through `message`, down to the newest message under it."""
        while below := self.children(message.id):
            message = below[-1]
        self.leaf = message.id

    def walk(self, message: Message, offset: int) -> Message:
        """Show the sibling so many places on; stays at the ends."""
        siblings = self.siblings(message)
        place = siblings.index(message) + offset
        chosen = siblings[max(0, min(place, len(siblings) - 1))]
        if chosen is not message:
            self.show(chosen)
        return chosen

    def remove(self, message: Message) -> list[Message]:
        """Take away `message` and all under it; returns them, so that this can be undone."""
        gone = list(self._downwards(message))
        for each in gone:
            del self.messages[each.id]
        left = self.children(message.parent)
        if left:
            self.show(left[-1])
        else:
            self.leaf = message.parent
        return gone

    def _downwards(self, message: Message) -> Iterator[Message]:
        yield message
        for child in self.children(message.id):
            yield from self._downwards(child)

    def before(self, message: Message) -> list[Message]:
        """The path that leads to `message`, without it."""
        return list(reversed(list(self._upwards(message.parent))))

    def prompt(self, path: list[Message]) -> list[dict[str, str]]:
        """`path` as messages for the API, the system prompt first."""
        turns = [
            {"role": "assistant" if m.role == "text" else m.role, "content": m.content}
            for m in path
        ]
        return ([{"role": "system", "content": self.system}] if self.system else []) + turns

    def text(self, path: list[Message]) -> str:
        """`path` as one running text, for models without a chat template."""
        return self.system + "".join(message.content for message in path)
