"""What can be done in a chat: send, stop, regenerate, branch, delete, undo, save. No Textual.

The controller changes the conversation and runs the generation; a `ChatListener` (the screen)
hears what changed and draws it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from kgpt.config import SamplingConfig
from kgpt.errors import KgptError, UsageError
from kgpt.files import os_errors_as_kgpt
from kgpt.protocol import TopLogprob
from kgpt_tui.chat.connection import ConnectionListener, ModelConnection, cancel, start_task
from kgpt_tui.chat.conversation import Conversation, Message, Mode
from kgpt_tui.chat.import_export import export, read_conversation
from kgpt_tui.chat.session import ChatSession, last_answer
from kgpt_tui.chat.store import Entry, Store
from kgpt_tui.models.server import Server

MODES: tuple[Mode, ...] = ("auto", "chat", "text")
NO_CONTINUATION = "This server does not continue an answer; ctrl+r generates another."
GENERATING = "An answer is being generated; esc stops it."


class ChatListener(ConnectionListener, Protocol):
    """Hears what happens to the conversation."""

    async def messages_changed(self, chosen: Message | None = None) -> None:
        """The shown path is another; `chosen` is the message to put the cursor on."""

    async def conversation_opened(self) -> None:
        """Another conversation is open."""

    async def generation_started(self, answer: Message) -> None:
        """`answer` grows from now on, until `generation_finished`."""

    def generation_finished(self, answer: Message) -> None: ...

    def details_changed(self) -> None:
        """The title, the system prompt or the list of conversations is another."""

    def sampling_changed(self) -> None: ...


class ChatController:
    """One open conversation, the model that answers, and what was deleted and can come back."""

    def __init__(self, store: Store, listener: ChatListener, server: Server | None = None):
        self.session = ChatSession(store)
        self.connection = ModelConnection(self.session, listener, server)
        self.answering: Message | None = None
        self._listener = listener
        self._generation: asyncio.Task[None] | None = None
        self._closed = False
        self._removed: list[Message] = []
        self._deleted: list[int] = []
        self._unsaved = ""

    @property
    def conversation(self) -> Conversation:
        return self.session.conversation

    @property
    def path(self) -> list[Message]:
        return self.session.conversation.path

    # -- generation --------------------------------------------------------------------------

    def is_ready(self, begun: bool = False) -> bool:
        """True if an answer, or the rest of one (`begun`), can be generated; says why otherwise."""
        if self.answering is not None:
            self._listener.say(GENERATING, "warning")
        elif self.session.client is None:
            busy = self.connection.busy
            problem = f"Not yet: {busy}." if busy else "Choose a model first: ctrl+l."
            self._listener.say(problem, "warning")
        elif begun and not self.session.can_continue:
            self._listener.say(NO_CONTINUATION, "warning")
        else:
            return True
        return False

    async def send(self, text: str) -> bool:
        """Send `text`, or let a base model begin a document; False if that cannot be now."""
        if not self.is_ready():
            return False
        await self.generate(self.session.send(text) if text else self.session.begin_text())
        return True

    async def prefill(self, text: str, prefix: str) -> bool:
        """Send `text`, if any; the answer begins with `prefix`."""
        if not self.is_ready(begun=True):
            return False
        await self.generate(self.session.prefilled(text, prefix))
        return True

    async def regenerate(self, message: Message) -> None:
        """Another answer in place of `message`, or to it if it is the user's."""
        if not self.is_ready():
            return
        if message.is_answer:
            await self.generate(self.session.regenerate(message))
        else:
            self.conversation.leaf = message.id
            await self.generate(self.session.begin_text())

    async def continue_answer(self, message: Message) -> None:
        """Generate on from the end of `message`."""
        if not message.is_answer:
            raise UsageError("Only an answer can be continued; choose one.")
        if self.is_ready(begun=True):
            self.conversation.leaf = message.id
            await self.generate(message)

    async def edit(self, message: Message, text: str | None) -> None:
        """A sibling of `message` with another text; one of the user's is sent if that can be."""
        if text is None or text == message.content:
            return
        edited = self.session.rewrite(message, text)
        if not message.is_answer and self.is_ready():
            await self.regenerate(edited)
            return
        await self._listener.messages_changed()
        self.autosave()

    def branch(self, answer: Message, position: int, token: TopLogprob) -> Message | None:
        """A sibling of `answer` with `token` at `position`, to be generated; None if it cannot."""
        if not self.is_ready(begun=True):
            return None
        try:
            return self.session.branch(answer, position, token)
        except UsageError as error:
            self._listener.say(str(error), "warning")
            return None

    async def generate(self, answer: Message) -> None:
        """Generate the rest of `answer` in a task of its own."""
        self.answering = answer
        await self._listener.generation_started(answer)
        self._generation = start_task(self.session.generate(answer), self._listener)
        self._generation.add_done_callback(lambda task: self._finish(answer))

    def _finish(self, answer: Message) -> None:
        """Runs even where the task was cancelled before its first step."""
        answer.finish = answer.finish or "stopped"
        self.answering = None
        if not self._closed:
            self.autosave()
            self._listener.generation_finished(answer)

    def stop(self) -> None:
        """Stop the generation and keep what there is."""
        if self._generation is not None:
            self._generation.cancel()

    # -- messages ----------------------------------------------------------------------------

    def last_message(self, of_user: bool = False) -> Message:
        """The last answer, or with `of_user` the last question; any message where there is none."""
        path = self.path
        asked = next((m for m in reversed(path) if m.role == "user"), None) if of_user else None
        found = asked or last_answer(path) or (path[-1] if path else None)
        if found is None:
            raise UsageError("There is no message yet.")
        return found

    async def show_sibling(self, message: Message, offset: int) -> None:
        """Show the alternative `offset` siblings after `message`."""
        self._refuse_while_generating()
        chosen = self.conversation.walk(message, offset)
        await self._listener.messages_changed(chosen)
        self.autosave()

    async def remove(self, message: Message) -> None:
        """Delete `message` and all below it; `undo_remove` brings them back."""
        self._refuse_while_generating()
        conversation = self.conversation
        self._removed = conversation.remove(message)
        await self._listener.messages_changed()
        self.session.store.remove_messages(conversation, self._removed)
        self._listener.say(f"Deleted {len(self._removed)} messages; u brings them back.")

    async def undo_remove(self) -> None:
        conversation, removed = self.conversation, self._removed
        if removed and (removed[0].parent is None or removed[0].parent in conversation.messages):
            conversation.messages |= {each.id: each for each in removed}
            conversation.show(removed[0])
            self.session.touch(*removed)
            self._removed = []
            await self._listener.messages_changed()
            self.autosave()

    def _refuse_while_generating(self) -> None:
        if self.answering is not None:
            raise UsageError(GENERATING)

    # -- conversations -----------------------------------------------------------------------

    async def restore(self) -> list[str]:
        """Open the conversation used last; returns the prompts that were sent before."""
        prompts: list[str] = []
        try:
            prompts = self.session.store.prompts()
            entries = self.session.store.entries()
            if entries:
                self.session.open(max(entries, key=lambda entry: entry.updated).id)
        except KgptError as error:
            self._listener.say(str(error), "warning")
        await self._listener.conversation_opened()
        return prompts

    async def open(self, conversation: int) -> None:
        """Show another conversation; a running generation is stopped and its text kept."""
        await self._leave()
        self.session.open(conversation)
        await self._listener.conversation_opened()

    async def new(self) -> None:
        await self._leave()
        self.session.new()
        await self._listener.conversation_opened()

    async def adopt(self, conversation: Conversation) -> None:
        """Show a conversation that was read from a file, and store it."""
        await self._leave()
        self.session.adopt(conversation)
        await self._listener.conversation_opened()
        self.autosave()

    async def _leave(self) -> None:
        await cancel(self._generation)
        self._removed = []
        self.autosave()

    async def delete(self, conversation: int | None = None) -> None:
        """Delete a conversation (the open one if None); `undo_delete` brings it back."""
        deleted = conversation or self.conversation.id
        if deleted == self.conversation.id:
            await cancel(self._generation)
        self.session.store.delete(deleted)
        self._deleted.append(deleted)
        if deleted == self.conversation.id:
            self.session.adopt(Conversation())
            await self._listener.conversation_opened()
        self._listener.details_changed()
        self._listener.say("Deleted; u in the list of chats brings it back.")

    def undo_delete(self) -> None:
        if self._deleted:
            self.session.store.restore(self._deleted.pop())
            self._listener.details_changed()

    def toggle_pin(self, entry: Entry) -> None:
        self.session.store.pin(entry.id, not entry.pinned)
        if entry.id == self.conversation.id:
            self.conversation.pinned = not entry.pinned
        self._listener.details_changed()

    def rename(self, title: str, conversation: int | None = None) -> None:
        """Name a conversation (the open one if None)."""
        if conversation in (None, self.conversation.id):
            self.conversation.title = title
            self.autosave()
        else:
            self.session.store.rename(conversation, title)
        self._listener.details_changed()

    def set_system(self, text: str) -> None:
        """Set the system prompt."""
        self.conversation.system = text
        self.autosave()
        self._listener.details_changed()

    async def set_mode(self, mode: str) -> None:
        """Chat in turns, continue a text, or what the model is made for (auto)."""
        chosen = next((known for known in MODES if known == mode), None)
        if chosen is None:
            raise UsageError(f"There is no mode {mode}; there are {', '.join(MODES)}.")
        self.conversation.mode = chosen
        self.autosave()
        await self._listener.messages_changed()

    def set_sampling(self, sampling: SamplingConfig) -> None:
        self.session.set_sampling(sampling)
        self._listener.sampling_changed()

    def export(self, path: Path, replace: bool = False) -> None:
        """Write the open conversation to a .md or .json file."""
        export(self.conversation, path, replace)
        self._listener.say(f"Written to {path}.")

    def write_receipt(self, answer: Message, path: Path) -> None:
        """Write the receipt of an answer to a new file."""
        with os_errors_as_kgpt(f"write {path}"), path.open("x", encoding="utf-8") as file:
            file.write(answer.receipt + "\n")
        self._listener.say(f"Written to {path}; kgpt replay reads it.")

    async def import_file(self, path: Path) -> None:
        await self.adopt(read_conversation(path))

    def autosave(self) -> None:
        """Write what changed; a failure is reported once and tried again."""
        problem = self.session.flush()
        if problem and problem != self._unsaved:
            self._listener.say(problem, "warning")
        elif self._unsaved and not problem:
            self._listener.say("Saved.")
        self._unsaved = problem

    def close(self) -> None:
        """The app ends, and an engine of its own with it."""
        self.connection.close()
        self.autosave()
        self._closed = True
