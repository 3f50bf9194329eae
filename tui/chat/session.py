"""A chat without a screen: what sending, regenerating, branching and stopping do to the tree.

The screen calls these and redraws; `flush` writes what changed, and keeps it when that fails.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError, UsageError
from kgpt.protocol import GenerationChunk, TokenInfo, TopLogprob
from kgpt_tui.chat.conversation import Conversation, Message, Role
from kgpt_tui.chat.store import Store
from kgpt_tui.models.client import Client, ServerError
from kgpt_tui.models.server_info import ModelInfo
from kgpt_tui.shared.display import one_line


class ChatSession:
    """One open conversation, the server that answers, and the store that keeps it."""

    def __init__(self, store: Store, sampling: SamplingConfig | None = None):
        self.store = store
        self.client: Client | None = None
        self.info: ModelInfo | None = None
        self.default_sampling = sampling or SamplingConfig()
        self.conversation = Conversation()
        self._dirty: set[int] = set()

    def connected(self, client: Client, info: ModelInfo) -> None:
        """Use `client` from now on, and the model's own sampling settings as the defaults."""
        self.client, self.info = client, info
        self.conversation.model = info.id
        known = info.sampling.keys() & SamplingConfig.model_fields.keys()
        try:
            self.default_sampling = SamplingConfig.parse({n: info.sampling[n] for n in known})
        except UsageError:
            self.default_sampling = SamplingConfig()

    # -- conversations -----------------------------------------------------------------------

    @property
    def is_text(self) -> bool:
        """True where the model goes on with a text instead of answering turns."""
        if self.conversation.mode != "auto":
            return self.conversation.mode == "text"
        return self.info is not None and not self.info.chat

    @property
    def sampling(self) -> SamplingConfig:
        values = self.default_sampling.model_dump() | self.conversation.sampling
        try:
            return SamplingConfig.parse(values)
        except UsageError:
            return self.default_sampling

    @property
    def can_continue(self) -> bool:
        """True where the server goes on with an answer that has begun."""
        return self.is_text or self.info is None or self.info.is_kgpt

    def set_sampling(self, sampling: SamplingConfig) -> None:
        """Keep what differs from the defaults with the conversation."""
        default = self.default_sampling.model_dump(mode="json")
        given = sampling.model_dump(mode="json")
        self.conversation.sampling = {k: v for k, v in given.items() if v != default[k]}

    def new(self) -> None:
        """Begin an empty conversation with the settings of this one."""
        old = self.conversation
        self.conversation = Conversation(system=old.system, sampling=dict(old.sampling))
        self._dirty.clear()

    def open(self, conversation: int) -> None:
        self.conversation = self.store.load(conversation)
        self._dirty.clear()
        for message in self.conversation.messages.values():
            if message.is_answer and not message.finish:
                message.finish = "interrupted"

    def adopt(self, conversation: Conversation) -> None:
        """Go on with `conversation`, of which nothing is stored yet."""
        self.conversation = conversation
        self._dirty = set(conversation.messages)

    def touch(self, *messages: Message) -> None:
        """Note that these messages are to be written."""
        self._dirty.update(message.id for message in messages)

    def flush(self) -> str:
        """Write what changed; returns why it could not be, or an empty string."""
        conversation = self.conversation
        if not conversation.messages and not conversation.draft:
            return ""
        dirty = [conversation.messages[i] for i in self._dirty if i in conversation.messages]
        try:
            self.store.save(conversation, dirty)
        except KgptError as error:
            return str(error)
        self._dirty.clear()
        return ""

    # -- the tree ----------------------------------------------------------------------------

    def send(self, text: str) -> Message:
        """Add what the user wrote and the answer to be; generate that next."""
        conversation = self.conversation
        if not conversation.title:
            conversation.title = one_line(text, 48)
        user = conversation.add(Message("user", text, conversation.leaf))
        return self._answer(user.id, user)

    def begin_text(self) -> Message:
        """An answer to nothing: the model begins a document."""
        return self._answer(self.conversation.leaf)

    def prefilled(self, text: str, beginning: str) -> Message:
        """As `send`, with the answer's beginning given."""
        answer = self.send(text) if text else self._answer(self.conversation.leaf)
        answer.prefix = answer.content = beginning
        return answer

    def regenerate(self, answer: Message) -> Message:
        """A sibling of `answer`, to be generated."""
        return self._answer(answer.parent)

    def rewrite(self, message: Message, text: str) -> Message:
        """A sibling of `message` with the user's own text; nothing is generated."""
        edited = Message(message.role, text, message.parent)
        if message.is_answer:
            edited.prefix, edited.finish = text, "edited"
        self.touch(self.conversation.add(edited))
        return edited

    def branch(self, answer: Message, position: int, chosen: TopLogprob) -> Message:
        """A sibling that is equal up to token `position`, where it has `chosen`; then goes on."""
        if not can_branch_to(chosen):
            raise UsageError("This token is part of a character; choose another one.")
        token = answer.tokens[position]
        kept = answer.tokens[:position]
        instead = TokenInfo(**vars(chosen), top_logprobs=token.top_logprobs)
        sibling = self._answer(answer.parent)
        sibling.prefix = answer.prefix
        sibling.tokens = [*kept, instead]
        sibling.content = answer.prefix + "".join(each.text for each in sibling.tokens)
        return sibling

    def _answer(self, parent: int | None, *others: Message) -> Message:
        role: Role = "text" if self.is_text else "assistant"
        answer = self.conversation.add(Message(role, "", parent))
        self.touch(answer, *others)
        return answer

    # -- generation --------------------------------------------------------------------------

    async def generate(self, answer: Message) -> None:
        """Fill `answer`, going on where it has a beginning; cancel the task to stop.

        What came before an error or a stop is kept; the error is in `answer.error`.
        """
        started = time.monotonic() - answer.seconds
        first: float | None = None
        answer.finish, answer.error, answer.left_out, answer.receipt = "", "", 0, ""
        answer.model = self.info.id if self.info else ""
        try:
            async for chunk in self._chunks(answer):
                if chunk.text or chunk.tokens:
                    first = first or time.monotonic() - answer.seconds
                answer.content += chunk.text
                answer.tokens += chunk.tokens
                answer.finish = chunk.finish_reason or answer.finish
                answer.left_out = chunk.left_out or answer.left_out
                answer.receipt = json.dumps(chunk.receipt) if chunk.receipt else answer.receipt
                if chunk.usage is not None:
                    answer.prompt_tokens = chunk.usage.prompt_tokens
                answer.seconds = time.monotonic() - (first or started)
                self.touch(answer)
        except asyncio.CancelledError:
            answer.finish = "stopped"
            raise
        except KgptError as error:
            answer.finish, answer.error = "error", str(error)
        finally:
            answer.finish = answer.finish or "stopped"
            self.touch(answer)

    def _chunks(self, answer: Message) -> AsyncIterator[GenerationChunk]:
        if self.client is None:
            raise ServerError("There is no model yet; choose one with ctrl+l.")
        conversation = self.conversation
        path = conversation.before(answer)
        going_on = bool(answer.content)
        if answer.role == "text":
            path = [*path, answer] if going_on else path
            return self.client.stream_text(conversation.text(path), self.sampling)
        path = [*path, answer] if going_on else path
        return self.client.stream_chat(conversation.prompt(path), self.sampling, going_on)

    async def next_tokens(self, typed: str) -> tuple[TopLogprob, ...]:
        """What the model would write after the text being typed, or begin its answer with."""
        client, conversation = self.client, self.conversation  # `client` may be lost meanwhile
        if client is None:
            return ()
        if self.is_text:
            prompt = conversation.text(conversation.path) + typed
            return await client.next_tokens(prompt, self.sampling)
        messages = conversation.prompt(conversation.path)
        ids = await client.ids([*messages, {"role": "user", "content": typed}])
        return await client.next_tokens(ids, self.sampling)


def can_branch_to(token: TopLogprob) -> bool:
    """False for a part of a character, which is no text that an answer can contain."""
    return bool(token.text) and "\ufffd" not in token.text


def last_answer(path: Iterable[Message]) -> Message | None:
    """The latest message of a path that the model wrote."""
    return next((m for m in reversed(list(path)) if m.is_answer), None)
