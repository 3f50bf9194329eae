"""What can be done with messages and conversations: send, stop, regenerate, branch, undo, ..."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textual import on, work
from textual.content import Content
from textual.message_pump import MessagePump
from textual.timer import Timer

from kgpt.errors import KgptError, UsageError
from kgpt_tui.chat.clipboard import copy_outside
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.conversation_list import ConversationList, Entries
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.session import ChatSession, last_answer
from kgpt_tui.chat.store import Entry
from kgpt_tui.shared.dialogs import InputDialog
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.text_dialog import TextDialog

Base: Any = MessagePump  # its kind collects `@on` methods

TICK_S = 0.05


class ChatActions(Base):
    """Part of the chat screen."""

    session: ChatSession
    inspected: Message | None

    def setup_actions(self) -> None:
        self.answering: Message | None = None
        self._ticker: Timer | None = None
        self._removed: list[Message] = []
        self._put_away: list[int] = []
        self._unsaved = ""

    # -- answers -----------------------------------------------------------------------------

    def _ready(self) -> bool:
        if self.answering is not None:
            self.say("An answer is being written; esc stops it.", "warning")
            return False
        if self.session.client is None:
            busy = self.server_busy
            self.say(f"Not yet: {busy}." if busy else "Choose a model first: ctrl+l.", "warning")
            return False
        return True

    async def send(self, text: str) -> bool:
        """Send `text`; False if that cannot be now."""
        if not self._ready():
            return False
        session = self.session
        await self.answer(session.send(text) if text else session.begin_text())
        return True

    async def prefill(self, beginning: str) -> None:
        """Let the next answer begin so; the text in the composer is the question."""
        composer = self.query_one(Composer)
        if self._ready():
            message = self.session.prefilled(composer.text.strip(), beginning)
            composer.clear()
            await self.answer(message)

    async def answer(self, message: Message) -> None:
        """Show `message` and let the model write it."""
        self.answering = message
        messages = self.query_one(MessageList)
        messages.chosen = None
        await self.redraw()
        messages.anchor()
        if view := messages.view(message):
            view.live = True
            view.refresh_text()
        self._ticker = self.set_interval(TICK_S, self._tick)
        self._generate(message)
        self.refresh_bindings()

    @work(group="answer")
    async def _generate(self, message: Message) -> None:
        try:
            await self.session.generate(message)
        finally:
            self._answered(message)

    def _tick(self) -> None:
        if view := self.query_one(MessageList).view(self.answering):
            view.refresh_text(now=False)
        self.draw_status()

    def _answered(self, message: Message) -> None:
        if self._ticker is not None:
            self._ticker.stop()
        self.answering = None
        if not self.is_mounted:
            return
        if view := self.query_one(MessageList).view(message):
            view.live = False
            view.refresh_text()
        self.autosave()
        self.draw_frame()
        self.draw_entries()
        self.draw_tokens()
        self.predict()
        self.refresh_bindings()

    def stop_answer(self) -> None:
        """Stop writing and keep what there is."""
        self.workers.cancel_group(self, "answer")  # type: ignore[arg-type]

    # -- the chosen message ------------------------------------------------------------------

    @on(MessageList.Act)
    async def _act(self, event: MessageList.Act) -> None:
        await self._do(event.name, event.message, *event.arguments)

    def act(self, name: str, own: bool = False) -> None:
        """Do something with the last answer, or the last question of the user's `own`."""
        path = self.session.conversation.path
        chosen = next((m for m in reversed(path) if m.role == "user"), None) if own else None
        chosen = chosen or last_answer(path) or (path[-1] if path else None)
        if chosen is None:
            self.say("There is no message yet.", "warning")
        else:
            self.run_worker(self._do(name, chosen), group="act", exit_on_error=True)

    async def _do(self, name: str, message: Message, *arguments) -> None:
        try:
            await getattr(self, f"_do_{name}")(message, *arguments)
        except KgptError as error:
            self.say(str(error), "error")

    async def _do_regenerate(self, message: Message) -> None:
        if self._ready():
            conversation = self.session.conversation
            if message.is_answer:
                await self.answer(self.session.regenerate(message))
            else:
                conversation.show(message)
                conversation.leaf = message.id
                await self.answer(self.session.begin_text())

    async def _do_continue(self, message: Message) -> None:
        if not message.is_answer:
            raise UsageError("Only an answer can go on; choose one.")
        if self._ready():
            conversation = self.session.conversation
            conversation.leaf = message.id
            await self.answer(message)

    async def _do_edit(self, message: Message) -> None:
        title = "Edit and send again" if message.role == "user" else "Edit the answer"
        self.app.push_screen(
            TextDialog(title, message.content), lambda text: self._edited(message, text)
        )

    async def _edited(self, message: Message, text: str | None) -> None:
        if text is None or text == message.content:
            return
        if message.is_answer:
            self.session.rewrite(message, text)
            await self.redraw()
            self.autosave()
        elif self._ready():
            await self.answer(self.session.resend(message, text))

    async def _do_sibling(self, message: Message, offset: int) -> None:
        if self.answering is not None:
            raise UsageError("An answer is being written; esc stops it.")
        chosen = self.session.conversation.walk(message, offset)
        await self.redraw()
        self.query_one(MessageList).choose(chosen)
        self.autosave()

    async def _do_copy(self, message: Message) -> None:
        self.app.copy_to_clipboard(message.content.encode("utf-8", "replace").decode())
        how = copy_outside(message.content)
        self.say(f"Copied {len(message.content)} characters{how}.")

    async def _do_markdown(self, message: Message) -> None:
        wanted = "plain" if self.uses_markdown else "markdown"
        self.app.save_settings(rendering=wanted)  # type: ignore[attr-defined]
        await self.redraw()

    async def _do_remove(self, message: Message) -> None:
        if self.answering is not None:
            raise UsageError("An answer is being written; esc stops it.")
        conversation = self.session.conversation
        self._removed = conversation.remove(message)
        await self.redraw()
        self.session.store.remove_messages(conversation, self._removed)
        self.say(f"Deleted {len(self._removed)} messages; u brings them back.")

    async def _do_put_back(self, message: Message) -> None:
        conversation, removed = self.session.conversation, self._removed
        if removed and (removed[0].parent is None or removed[0].parent in conversation.messages):
            conversation.messages |= {each.id: each for each in removed}
            conversation.show(removed[0])
            self.session.touch(*removed)
            self._removed = []
            await self.redraw()
            self.autosave()

    async def _do_inspect(self, message: Message) -> None:
        self.inspect(message)

    def action_regenerate(self) -> None:
        self.act("regenerate")

    def action_continue(self) -> None:
        self.act("continue")

    def action_copy(self) -> None:
        chosen = self.query_one(MessageList).chosen
        if chosen is not None:
            self.run_worker(self._do("copy", chosen))
        else:
            self.act("copy")

    # -- conversations -----------------------------------------------------------------------

    async def restore(self) -> None:
        """Open the conversation of last time, and know what was written before."""
        try:
            self.query_one(Composer).prompts = self.session.store.prompts()
            entries = self.session.store.entries(limit=1)
            recent = max(self.session.store.entries(), key=lambda e: e.updated) if entries else None
            if recent is not None:
                self.session.open(recent.id)
        except KgptError as error:
            self.say(str(error), "warning")
        self.query_one(Composer).fill(self.session.conversation.draft)
        await self.redraw(keep=False)

    async def open_conversation(self, conversation: int) -> None:
        """Show another conversation; what is being written is stopped and kept."""
        await self._leave_conversation()
        try:
            self.session.open(conversation)
        except KgptError as error:
            self.say(str(error), "error")
            return
        await self._entered()

    async def action_new(self) -> None:
        await self._leave_conversation()
        self.session.new()
        await self._entered()
        self.query_one(Composer).focus()

    async def adopt(self, conversation: Conversation) -> None:
        """Show a conversation that was read from a file, and keep it."""
        await self._leave_conversation()
        self.session.conversation = conversation
        self.session.touch(*conversation.messages.values())
        await self._entered()
        self.autosave()

    async def _leave_conversation(self) -> None:
        if self.answering is not None:
            self.stop_answer()
            await self.workers.wait_for_complete()
        self._removed = []
        self.autosave()

    async def _entered(self) -> None:
        self.query_one(Composer).fill(self.session.conversation.draft)
        self.query_one(MessageList).chosen = None
        self.inspected = None
        await self.redraw(keep=False)
        self.draw_sampling()

    @on(ConversationList.Act)
    async def _on_conversation(self, event: ConversationList.Act) -> None:
        try:
            await self._conversation_act(event.name, event.entry)
        except KgptError as error:
            self.say(str(error), "error")
        self.draw_entries()

    async def _conversation_act(self, name: str, entry: Entry | None) -> None:
        store = self.session.store
        if name == "undo":
            if self._put_away:
                store.restore(self._put_away.pop())
        elif entry is None:
            return
        elif name == "open":
            await self.open_conversation(entry.id)
            self.close_overlays()
        elif name == "pin":
            store.pin(entry.id, not entry.pinned)
            if entry.id == self.session.conversation.id:
                self.session.conversation.pinned = not entry.pinned
        elif name == "rename":
            self.app.push_screen(
                InputDialog("Rename", "The title of this chat.", entry.title),
                lambda title: self.rename(title, entry.id) if title else None,
            )
        elif name == "delete":
            await self.delete_conversation(entry.id)

    async def delete_conversation(self, conversation: int | None = None) -> None:
        """Put a conversation away; `u` in the list brings it back."""
        gone = conversation or self.session.conversation.id
        self.session.store.delete(gone)
        self._put_away.append(gone)
        if gone == self.session.conversation.id:
            self.session.conversation = Conversation()
            await self._entered()
        self.draw_entries()
        self.say("Deleted; u in the list of chats brings it back.")

    def rename(self, title: str, conversation: int | None = None) -> None:
        if conversation in (None, self.session.conversation.id):
            self.session.conversation.title = title
            self.autosave()
        else:
            self.session.store.rename(conversation, title)
        self.draw_frame()
        self.draw_entries()

    def draw_entries(self) -> None:
        """List the conversations, or those that were searched for."""
        listed = self.query_one(ConversationList)
        try:
            entries = self.session.store.entries(listed.words)
        except KgptError:
            return
        listed.show(entries, self.session.conversation.id)

    @on(ConversationList.Searched)
    def _searched(self) -> None:
        self.draw_entries()

    def search(self, words: str) -> None:
        """Search all chats for `words`."""
        self.open_sidebar()
        self.query_one("#search").value = words  # type: ignore[attr-defined]
        self.query_one(Entries).focus()

    def autosave(self) -> None:
        """Write what changed; a failure is said once and tried again."""
        problem = self.session.flush()
        if problem and problem != self._unsaved:
            self.say(problem, "warning")
        elif self._unsaved and not problem:
            self.say("Saved.")
        self._unsaved = problem

    # -- writing elsewhere -------------------------------------------------------------------

    def action_system(self) -> None:
        screen = TextDialog("System prompt", self.session.conversation.system)
        self.app.push_screen(screen, lambda text: None if text is None else self.set_system(text))

    def set_system(self, text: str) -> None:
        self.session.conversation.system = text
        self.autosave()
        self.draw_frame()

    def edit_outside(self, text: str, done: Callable[[str], None]) -> None:
        """Edit `text` in the user's editor."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "message.md"
            file.write_text(text, encoding="utf-8", errors="replace")
            try:
                with self.app.suspend():
                    subprocess.run([*shlex.split(editor), str(file)], check=True)
                done(file.read_text(encoding="utf-8", errors="replace").removesuffix("\n"))
            except Exception as error:
                self.say(f"The editor {editor} could not be used: {error}.", "error")


def note(text: str, style: str = "$foreground-muted") -> Content:
    """A piece of a line in a style; `text` is data."""
    return Content.styled(sanitize(text), style)
