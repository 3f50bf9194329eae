"""The path of a conversation, its last messages mounted and the earlier ones on request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.events import Click
from textual.geometry import Region
from textual.message import Message as Event
from textual.widgets import Static

from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.controller_call import ControllerCall
from kgpt_tui.chat.conversation import Conversation, Message
from kgpt_tui.chat.message_view import MessageView
from kgpt_tui.chat.token_colors import Palette
from kgpt_tui.shared.text_dialog import TextDialog

MOUNTED = 20


class Earlier(Static):
    """Stands above the messages that are mounted, and mounts more when clicked."""

    async def on_click(self, event: Click) -> None:
        event.stop()
        await self.screen.query_one(MessageList).action_earlier()


class MessageList(VerticalScroll):
    """Keys here act on the chosen message."""

    HELP_TITLE = "Messages"
    BINDINGS = [
        Binding("up,k", "choose(-1)", "Previous", id="messages.up", show=False),
        Binding("down,j", "choose(1)", "Next", id="messages.down", show=False),
        Binding("home,g", "choose(-9999)", "First", id="messages.first", show=False),
        Binding("end,G", "choose(9999)", "Last", id="messages.last", show=False),
        Binding("left", "sibling(-1)", "Alternative", id="messages.left"),
        Binding("right", "sibling(1)", "Next alternative", id="messages.right", show=False),
        Binding("r", "regenerate", "Regenerate", id="messages.regenerate"),
        Binding("e", "edit", "Edit", id="messages.edit"),
        Binding("c", "continue", "Continue", id="messages.continue"),
        Binding("y", "copy", "Copy", id="messages.copy"),
        Binding("m", "markdown", "Markdown", id="messages.markdown", show=False),
        Binding("x,delete", "remove", "Delete branch", id="messages.delete", show=False),
        Binding("u", "undo", "Undo delete", id="messages.undo", show=False),
        Binding("enter,t", "inspect", "Tokens", id="messages.inspect"),
        Binding("o", "earlier", "Load earlier", id="messages.earlier", show=False),
        Binding("i", "leave", "Composer", id="messages.leave", show=False),
    ]

    @dataclass
    class Copy(Event):
        message: Message

    @dataclass
    class Inspect(Event):
        """Show the tokens of `message`."""

        message: Message

    class ToggleMarkdown(Event):
        """Switch between plain text and Markdown."""

    class Leave(Event):
        """Go to the composer."""

    @dataclass
    class Moved(Event):
        """Another message is chosen."""

        message: Message | None

    def __init__(self) -> None:
        super().__init__(id="messages")
        self.path: list[Message] = []
        self.first = 0  # index in the path of the first message that is mounted
        self.chosen: Message | None = None
        self._conversation = Conversation()
        self._markdown = False
        self._shown_earlier = -1

    def compose(self) -> ComposeResult:
        yield Earlier(id="earlier")
        yield Static(id="empty")

    def on_mount(self) -> None:
        self.anchor()

    async def show(self, conversation: Conversation, markdown: bool, keep: bool = False) -> None:
        """Draw the path; `keep` leaves as many messages mounted as there are."""
        same = keep and conversation is self._conversation
        self._conversation, self._markdown = conversation, markdown
        self.path = conversation.path
        self.first = min(self.first, len(self.path)) if same else max(0, len(self.path) - MOUNTED)
        if self.chosen is not None and self.chosen not in self.path:
            self.chosen = None
        with self.app.batch_update():
            kept = await self._unmount_others()
            new = [self._view(message) for message in self.path[self.first + kept :]]
            if new:
                await self.mount(*new)
            self._mark()
        if not same:
            self.anchor()

    async def _unmount_others(self) -> int:
        """Take away views that no longer fit; returns how many at the beginning still do."""
        views = list(self.query(MessageView))
        kept = 0
        for view, message in zip(views, self.path[self.first :], strict=False):
            number = self._sibling_number(message)
            if view.message is not message or view.markdown != self._wants_markdown(message):
                break
            if view.sibling_number != number:
                view.sibling_number = number
                view.refresh_text()
            kept += 1
        if views[kept:]:
            await self.remove_children(views[kept:])
        return kept

    def _view(self, message: Message) -> MessageView:
        return MessageView(message, self._sibling_number(message), self._wants_markdown(message))

    def _wants_markdown(self, message: Message) -> bool:
        return self._markdown and message.role == "assistant"

    def _sibling_number(self, message: Message) -> tuple[int, int]:
        siblings = self._conversation.siblings(message)
        return siblings.index(message) + 1, len(siblings)

    def view(self, message: Message | None) -> MessageView | None:
        """The view of `message`, where it is mounted."""
        return next((v for v in self.query(MessageView) if v.message is message), None)

    def choose(self, message: Message | None) -> None:
        """Put the cursor on `message`."""
        self.chosen = message
        self._mark()
        view = self.view(message)
        if view is not None:
            view.scroll_visible(animate=False)
        self.post_message(self.Moved(message))

    def _mark(self) -> None:
        for view in self.query(MessageView):
            view.set_class(view.message is self.chosen, "-chosen")
        earlier = self.query_one("#earlier", Static)
        if (self.first > 0, self.first) != (earlier.display, self._shown_earlier):
            earlier.display, self._shown_earlier = self.first > 0, self.first
            earlier.update(f"↑ {self.first} earlier messages")  # each update is a new layout
        self.query_one("#empty").display = not self.path

    async def action_earlier(self) -> None:
        begin = max(0, self.first - MOUNTED)
        new = [self._view(message) for message in self.path[begin : self.first]]
        self.first = begin
        if new:
            self.release_anchor()
            await self.mount(*new, after=self.query_one("#empty"))
            self._mark()

    async def action_choose(self, offset: int) -> None:
        if not self.path:
            return
        chosen = self.chosen
        index = self.path.index(chosen) if chosen in self.path else len(self.path)
        index = max(0, min(index + offset, len(self.path) - 1))
        while index < self.first:
            await self.action_earlier()
        self.choose(self.path[index])

    def _target(self) -> Message | None:
        """What keys act on: the chosen message, or else the last one."""
        return self.chosen or (self.path[-1] if self.path else None)

    def _post(self, event: Callable[[Message], Event]) -> None:
        if (message := self._target()) is not None:
            self.post_message(event(message))

    def _call(self, call: Callable[[ChatController, Message], Awaitable[None]]) -> None:
        self._post(lambda message: ControllerCall(lambda controller: call(controller, message)))

    def action_sibling(self, offset: int) -> None:
        self._call(lambda controller, message: controller.show_sibling(message, offset))

    def action_regenerate(self) -> None:
        self._call(ChatController.regenerate)

    def action_continue(self) -> None:
        self._call(ChatController.continue_answer)

    def action_edit(self) -> None:
        if (message := self._target()) is not None:
            self.edit(message)

    def edit(self, message: Message) -> None:
        """Edit in a dialog; a key pressed twice in haste opens one."""

        def accept(text: str | None) -> None:
            self.post_message(ControllerCall(lambda controller: controller.edit(message, text)))

        if self.app.screen is self.screen:
            title = "Edit and send again" if message.role == "user" else "Edit the answer"
            self.app.push_screen(TextDialog(title, message.content), accept)

    def action_page(self, pages: int) -> None:
        self.scroll_relative(y=pages * max(1, self.size.height - 2), animate=False)

    def action_copy(self) -> None:
        self._post(self.Copy)

    def action_remove(self) -> None:
        self._call(ChatController.remove)

    def action_inspect(self) -> None:
        self._post(self.Inspect)

    def action_markdown(self) -> None:
        self.post_message(self.ToggleMarkdown())

    def action_undo(self) -> None:
        self.post_message(ControllerCall(ChatController.undo_remove))

    def action_leave(self) -> None:
        self.post_message(self.Leave())

    def color_tokens(self, message: Message | None, palette: Palette, position: int) -> None:
        """Shade the tokens of `message`, the one at `position` under the cursor; no others."""
        for view in self.query(MessageView):
            colored = view.message is message
            wanted = (palette, position) if colored else (None, None)
            if (view.palette, view.token) != wanted:
                view.palette, view.token = wanted
                view.refresh_text()
                if colored:
                    self.call_after_refresh(self._scroll_to_token, view)

    def _scroll_to_token(self, view: MessageView) -> None:
        line = view.token_line() if view.is_attached else None
        if line is None:
            return
        y = view.virtual_region.y + line
        if not self.scroll_offset.y <= y < self.scroll_offset.y + self.size.height:
            self.release_anchor()
            self.scroll_to_region(Region(0, y, 1, 1), animate=False)

    def on_focus(self) -> None:
        if self.chosen is None and self.path:
            self.choose(self.path[-1])
