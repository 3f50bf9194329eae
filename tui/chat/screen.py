"""The chat: conversations at the left, messages and composer in the middle, panels at the right.

The screen hands what its widgets post to the `ChatController`; `ChatView` draws what that changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import isawaitable

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.events import Click
from textual.screen import Screen
from textual.widgets import OptionList, Static

from kgpt.errors import KgptError
from kgpt_tui import screens
from kgpt_tui.chat import commands
from kgpt_tui.chat.command_palette import CommandProvider
from kgpt_tui.chat.completions import Completions
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.controller_call import ControllerCall
from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.conversation_list import ConversationList
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.message_view import MessageView
from kgpt_tui.chat.sampling_panel import SamplingPanel
from kgpt_tui.chat.sides import WIDE, PanelName, SidePanel, Sides
from kgpt_tui.chat.store import Store
from kgpt_tui.chat.token_panel import NextTokens, TokenPanel
from kgpt_tui.chat.view import ChatView
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.settings import data_folder

AUTOSAVE_S, SERVER_CHECK_S = 1.0, 2.0


class ChatScreen(Screen[None]):
    """One conversation at a time."""

    CSS_PATH = "chat.tcss"
    COMMANDS = {CommandProvider}
    HELP_TITLE = "Chat"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (70, "-normal"), (WIDE, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]
    BINDINGS = [
        Binding("escape", "stop", "Stop", id="chat.stop", priority=True),
        Binding("escape", "back", "Messages / composer", id="chat.back", show=False, priority=True),
        Binding("ctrl+n", "new", "New", id="chat.new", priority=True),
        Binding("ctrl+b", "sidebar", "Chats", id="chat.sidebar", priority=True),
        Binding("ctrl+f", "search", "Search", id="chat.search", show=False, priority=True),
        Binding("ctrl+s", "panel('sampling')", "Sampling", id="chat.sampling", priority=True),
        Binding("ctrl+t", "panel('tokens')", "Tokens", id="chat.tokens", priority=True),
        Binding("ctrl+l", "models", "Model", id="chat.models", priority=True),
        Binding("f6", "restart", "Restart engine", id="chat.restart", priority=True),
        Binding("ctrl+r", "regenerate", "Again", id="chat.regenerate", show=False, priority=True),
        Binding("ctrl+g", "continue", "Continue", id="chat.continue", show=False, priority=True),
        Binding("ctrl+y", "copy", "Copy", id="chat.copy", show=False, priority=True),
        Binding("pageup", "page(-1)", "Page up", id="chat.pageup", show=False, priority=True),
        Binding("pagedown", "page(1)", "Page down", id="chat.pagedown", show=False, priority=True),
    ]  # fmt: skip

    def __init__(self, model: str | None = None, server: str | None = None):
        super().__init__(id="chat")
        self._wanted = (model, server)
        self.view = ChatView(self)
        self.sides = Sides(self)

    @property
    def controller(self) -> ChatController:
        return self.view.controller

    def compose(self) -> ComposeResult:
        completions = Completions()
        with Horizontal(id="top"):
            yield Static(id="title", markup=False)
            yield Static(id="model", markup=False)
        with Horizontal(id="middle"):
            yield ConversationList()
            with Vertical(id="centre"):
                yield MessageList()
                yield completions
                yield Composer(completions)
                yield Static(id="status", markup=False)
            yield SidePanel()
        yield KeyBar(show_command_palette=False)

    async def on_mount(self) -> None:
        options = kgpt_app(self).options
        store = Store((options.data or data_folder()) / "chats.db")
        self.view.controller = ChatController(store, self.view)
        if store.problem:
            self.view.say(store.problem, "warning")
        self.view.composer.focus()
        self.sides.restore()
        self.view.composer.prompts = await self.controller.restore()
        self.set_interval(AUTOSAVE_S, lambda: self.controller.autosave())
        self.set_interval(SERVER_CHECK_S, self.controller.connection.check)
        model, server = self._wanted[0] or options.model, self._wanted[1] or options.server
        if server:
            self.controller.connection.connect(server, options.api_key_file, model or "")
        elif model:
            self.use_model(model)

    def on_unmount(self) -> None:
        self.controller.close()

    def on_resize(self) -> None:
        self.sides.fit()
        self.call_after_refresh(self.view.draw_fitted)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("stop", "back"):
            return (self.controller.answering is not None) == (action == "stop")
        if action == "restart":
            return self.controller.connection.can_restart
        return True

    @contextmanager
    def _errors_shown(self) -> Iterator[None]:
        try:
            yield
        except KgptError as error:
            self.view.say(str(error), "error")

    @on(ControllerCall)
    async def _call_controller(self, event: ControllerCall) -> None:
        with self._errors_shown():
            result = event.call(self.controller)
            if isawaitable(result):
                await result

    # -- the model ---------------------------------------------------------------------------

    def use_model(self, model: str) -> None:
        """Serve `model` (a directory, run or run@step) from now on."""
        self.controller.stop()
        self.controller.connection.use_model(model)

    def action_restart(self) -> None:
        self.controller.connection.restart()

    def action_models(self) -> None:
        current = self.controller.connection.server.model
        self.app.push_screen(
            screens.make("models", current), lambda model: self.use_model(model) if model else None
        )

    def on_click(self, event: Click) -> None:
        if event.widget is not None and event.widget.id == "model":
            self.action_models()

    # -- the composer and commands -----------------------------------------------------------

    @on(Composer.Sent)
    async def _sent(self, event: Composer.Sent) -> None:
        composer, text = self.view.composer, event.text
        if text.startswith("/") and not text.startswith("//"):
            self._clear_composer()
            if not await self.run_command(text[1:]) and not composer.text:
                composer.fill(text)
            return
        text = text[1:] if text.startswith("//") else text
        if not text.strip() and not self.controller.session.is_text:
            return
        if self.controller.is_ready():
            composer.remember(text)
            self._clear_composer()
            await self.controller.send(text)

    def _clear_composer(self) -> None:
        """At once, before anything is awaited: what is typed next is the next message."""
        self.view.composer.clear()
        self.controller.conversation.draft = ""

    @on(Composer.Changed)
    def _typed(self) -> None:
        self.controller.conversation.draft = self.view.composer.text
        self.view.predict()

    @on(OptionList.OptionSelected, "#completions")
    def _completion_clicked(self) -> None:
        self.view.composer.complete()
        self.view.composer.focus()

    async def run_command(self, line: str) -> bool:
        """Run a slash command; an error is shown. True if it succeeded."""
        with self._errors_shown():
            await commands.run(self, line)
            return True
        return False

    @on(CommandProvider.Chosen)
    async def _command_chosen(self, event: CommandProvider.Chosen) -> None:
        if event.command.needs_argument:
            self.view.composer.fill(f"/{event.command.name} ")
            self.view.composer.focus()
        else:
            await self.run_command(event.command.name)

    # -- messages ----------------------------------------------------------------------------

    def action_stop(self) -> None:
        self.controller.stop()

    async def action_regenerate(self) -> None:
        with self._errors_shown():
            await self.controller.regenerate(self.controller.last_message())

    async def action_continue(self) -> None:
        with self._errors_shown():
            await self.controller.continue_answer(self.controller.last_message())

    def action_page(self, pages: int) -> None:
        self.view.messages.action_page(pages)

    def action_copy(self) -> None:
        with self._errors_shown():
            self.view.copy(self.view.messages.chosen or self.controller.last_message())

    @on(MessageList.Copy)
    def _copy(self, event: MessageList.Copy) -> None:
        self.view.copy(event.message)

    @on(MessageList.ToggleMarkdown)
    async def _toggle_markdown(self) -> None:
        await self.view.toggle_markdown()

    @on(MessageList.Leave)
    def _leave_messages(self) -> None:
        self.view.composer.focus()

    # -- conversations -----------------------------------------------------------------------

    async def action_new(self) -> None:
        await self.controller.new()
        self.view.composer.focus()

    @on(ConversationList.Open)
    async def _open(self, event: ConversationList.Open) -> None:
        with self._errors_shown():
            await self.controller.open(event.entry.id)
        self._close_overlays()

    @on(ConversationList.Searched)
    def _searched(self) -> None:
        self.view.draw_entries()

    @on(ConversationList.Search)
    def action_search(self) -> None:
        self.sides.open_conversations().focus_search()
        self.call_after_refresh(self.view.draw_entries)

    def search_chats(self, words: str) -> None:
        """Search all chats for `words`."""
        listed = self.sides.open_conversations()
        listed.search(words)
        listed.focus_list()
        self.call_after_refresh(self.view.draw_entries)

    # -- the sides ---------------------------------------------------------------------------

    @on(SamplingPanel.Changed)
    def _sampling_changed(self, event: SamplingPanel.Changed) -> None:
        self.controller.set_sampling(event.sampling)

    def action_sidebar(self) -> None:
        self.sides.toggle_conversations()
        self.call_after_refresh(self.view.draw_entries)

    def action_panel(self, name: PanelName) -> None:
        """Open a panel and go there; close it when it was there already."""
        if name == "tokens":
            self.view.inspect_default()
        self.sides.toggle_panel(name)
        self.view.draw_tokens()
        self.view.predict()

    def action_back(self) -> None:
        """Escape: close what lies over the messages; else go between them and the composer."""
        composer = self.view.composer
        if self.view.takes_late_stop() or self._close_overlays():
            return
        if self.focused is not composer:
            self.view.tokens.inspect(None)
            self.view.draw_tokens()
            composer.focus()
        elif composer.text.startswith("/"):
            composer.clear()
        else:
            self.view.messages.focus()

    def _close_overlays(self) -> bool:
        closed = self.sides.close_overlays()
        if closed:
            self.view.draw_tokens()
        return closed

    @on(MessageList.Inspect)
    def _inspect(self, event: MessageList.Inspect) -> None:
        self.inspect_message(event.message)

    def inspect_message(self, message: Message, position: int = 0) -> None:
        """Show the tokens of an answer in the inspector."""
        if not message.tokens:
            self.view.say("Nothing is known about the tokens of this message.", "warning")
            return
        self.view.tokens.inspect(message, position)
        self.sides.open_panel("tokens")
        self.view.draw_tokens()
        self.view.tokens.focus_list()

    @on(MessageView.Chosen)
    def _message_clicked(self, event: MessageView.Chosen) -> None:
        self.view.messages.choose(event.message)
        if event.token is not None:
            self.inspect_message(event.message, event.token)

    @on(MessageList.Moved)
    def _message_moved(self, event: MessageList.Moved) -> None:
        if self.view.tokens.is_open and event.message is not None and event.message.tokens:
            self.view.tokens.inspect(event.message)
            self.view.draw_tokens()

    @on(TokenPanel.Moved)
    def _token_moved(self) -> None:
        self.view.color_tokens()

    @on(TokenPanel.ToggleColoring)
    def _toggle_coloring(self) -> None:
        self.view.toggle_coloring()

    @on(TokenPanel.Branch)
    async def _branch(self, event: TokenPanel.Branch) -> None:
        sibling = self.controller.branch(event.answer, event.position, event.token)
        if sibling is not None:
            self.view.tokens.inspect(sibling, event.position)
            await self.controller.generate(sibling)

    @on(NextTokens.Due)
    @work(group="predict", exclusive=True)
    async def _predict(self) -> None:
        await self.view.show_next_tokens()
