"""The chat: conversations at the left, messages and composer in the middle, controls at the right.

What is drawn and where; what happens with messages is in `chat_actions`, with servers in
`chat_server`, with sampling and tokens in `chat_panels`.
"""

from __future__ import annotations

from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.events import Click
from textual.screen import Screen
from textual.widgets import ContentSwitcher, OptionList, Static, TextArea

from kgpt.errors import KgptError
from kgpt_tui.chat import commands
from kgpt_tui.chat.actions import ChatActions
from kgpt_tui.chat.completions import Completions
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.connection import ChatServer
from kgpt_tui.chat.conversation_list import ConversationList
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.panels import ChatPanels
from kgpt_tui.chat.sampling_panel import SamplingPanel
from kgpt_tui.chat.session import ChatSession
from kgpt_tui.chat.store import Store
from kgpt_tui.chat.token_panel import NextTokens, TokenPanel
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.settings import data_folder

AUTOSAVE_S = 1.0


class CommandProvider(Provider):
    """The slash commands, in the command palette."""

    async def discover(self) -> Hits:
        for command in commands.COMMANDS.values():
            yield DiscoveryHit(f"/{command.name}", self._runner(command), help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in commands.COMMANDS.values():
            if score := matcher.match(f"/{command.name} {command.help}"):
                yield Hit(score, f"/{command.name}", self._runner(command), help=command.help)

    def _runner(self, command: commands.Command):
        screen = self.screen
        assert isinstance(screen, ChatScreen)
        return lambda: screen.begin_command(command)


class ChatScreen(ChatActions, ChatServer, ChatPanels, Screen[None]):
    """One conversation at a time."""

    CSS_PATH = "chat.tcss"
    COMMANDS = {CommandProvider}
    HELP_TITLE = "Chat"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (70, "-normal"), (110, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (18, "-medium"), (34, "-tall")]
    BINDINGS = [
        Binding("escape", "stop", "Stop", id="chat.stop", priority=True),
        Binding("escape", "back", "Messages / write", id="chat.back", show=False, priority=True),
        Binding("ctrl+n", "new", "New", id="chat.new", priority=True),
        Binding("ctrl+b", "sidebar", "Chats", id="chat.sidebar", priority=True),
        Binding("ctrl+f", "search", "Search", id="chat.search", show=False, priority=True),
        Binding("ctrl+s", "panel('sampling')", "Sampling", id="chat.sampling", priority=True),
        Binding("ctrl+t", "panel('tokens')", "Tokens", id="chat.tokens", priority=True),
        Binding("ctrl+l", "models", "Model", id="chat.models", priority=True),
        Binding("ctrl+r", "regenerate", "Again", id="chat.regenerate", show=False, priority=True),
        Binding("ctrl+g", "continue", "Continue", id="chat.continue", show=False, priority=True),
        Binding("ctrl+y", "copy", "Copy", id="chat.copy", show=False, priority=True),
        Binding("pageup", "page(-1)", "Page up", id="chat.pageup", show=False, priority=True),
        Binding("pagedown", "page(1)", "Page down", id="chat.pagedown", show=False, priority=True),
    ]  # fmt: skip

    def __init__(self, model: str | None = None, server: str | None = None):
        super().__init__(id="chat")
        self._wanted = (model, server)
        self.session = ChatSession(Store(None))
        self.setup_actions()
        self.setup_server()
        self.setup_panels()

    def compose(self) -> ComposeResult:
        with Horizontal(id="top"):
            yield Static(id="title", markup=False)
            yield Static(id="model", markup=False)
        with Horizontal(id="middle"):
            yield ConversationList()
            with Vertical(id="centre"):
                yield MessageList()
                yield Completions()
                yield Composer()
                yield Static(id="status", markup=False)
            with Vertical(id="panel"):
                with ContentSwitcher(initial="sampling", id="panels"):
                    yield SamplingPanel()
                    yield TokenPanel()
                yield NextTokens()
        yield KeyBar(show_command_palette=False)

    async def on_mount(self) -> None:
        options = self.app.options  # type: ignore[attr-defined]
        folder: Path = options.data or data_folder()
        self.session = ChatSession(Store(folder / "chats.db"))
        if self.session.store.problem:
            self.say(self.session.store.problem, "warning")
        self.query_one(Composer).focus()
        self.open_panels()
        await self.restore()
        self.set_interval(AUTOSAVE_S, self.autosave)
        model, server = self._wanted
        self.connect_first(model or options.model, server or options.server, options.api_key_file)

    def on_resize(self) -> None:
        self.call_after_refresh(self._fit)

    def on_unmount(self) -> None:
        self.leave()

    def say(self, text: str, severity: str = "information") -> None:
        """A message in the corner; `text` is data."""
        self.notify(sanitize(text), severity=severity, markup=False)  # type: ignore[arg-type]

    @property
    def uses_markdown(self) -> bool:
        """True if answers are drawn as Markdown: when wanted, or by default for chat models."""
        rendering = self.app.settings.rendering  # type: ignore[attr-defined]
        return rendering == "markdown" or (rendering == "auto" and not self.session.is_text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("stop", "back"):
            return (self.answering is not None) == (action == "stop")
        return True

    # -- drawing -----------------------------------------------------------------------------

    async def redraw(self, keep: bool = True) -> None:
        """Draw the conversation as it is now."""
        await self.query_one(MessageList).show(
            self.session.conversation, self.uses_markdown, keep=keep
        )
        self.draw_frame()
        self.draw_entries()
        self.draw_tokens()

    def draw_frame(self) -> None:
        """Title, model, status and what an empty chat says."""
        session = self.session
        title = one_line(session.conversation.title or "New chat", 200)
        if session.conversation.system:
            title += "  ⚙"
        self.query_one("#title", Static).update(Content.styled(title, "bold"))
        self.query_one("#model", Static).update(self.server_line())
        self.query_one("#status", Static).update(self.status_line())
        self.query_one("#empty", Static).update(self._welcome())
        composer = self.query_one(Composer)
        composer.placeholder = "Write a text to go on with…" if session.is_text else "Message…"

    def _fit(self) -> None:
        """What was cut to the width is cut anew."""
        self.draw_frame()
        self.draw_entries()
        self.draw_tokens()

    def _welcome(self) -> Content:
        lines = [Content.styled("kgpt", "bold $primary"), Content("")]
        if self.server_problem:
            lines += [Content.styled(sanitize(self.server_problem), "$error"), Content("")]
        if self.session.client is None and not self.server_busy:
            lines.append(Content("No model is loaded."))
            keys = [("ctrl+l", "choose one"), ("F5", "train one"), ("ctrl+b", "read old chats")]
        elif self.session.is_text:
            lines.append(Content("This model goes on with what you write."))
            keys = [("enter", "let it go on"), ("ctrl+s", "sampling"), ("ctrl+t", "tokens")]
        else:
            lines.append(Content("Say something."))
            keys = [("/", "commands"), ("ctrl+s", "sampling"), ("ctrl+t", "token inspector")]
        rows = [
            Content.assemble((f"{key:>8}", "bold $accent"), (f"  {what:<16}", "$foreground-muted"))
            for key, what in keys
        ]
        return Content("\n").join([*lines, Content(""), *rows])

    # -- the composer ------------------------------------------------------------------------

    @on(Composer.Sent)
    async def _sent(self, event: Composer.Sent) -> None:
        composer, text = self.query_one(Composer), event.text
        if text.startswith("/") and not text.startswith("//"):
            composer.clear()
            self.run_command(text[1:])
            return
        if text.startswith("//"):
            text = text[1:]
        if not text.strip() and not self.session.is_text:
            return
        if await self.send(text):
            composer.remember(text)
            composer.clear()
            self.session.conversation.draft = ""

    @work(group="command")
    async def run_command(self, line: str) -> None:
        """Run a slash command; what goes wrong is said."""
        try:
            await commands.run(self, line)
        except KgptError as error:
            self.say(str(error), "error")

    def begin_command(self, command: commands.Command) -> None:
        """Run a command, or put it in the composer if it wants more words."""
        if command.needs_argument:
            self.query_one(Composer).fill(f"/{command.name} ")
            self.query_one(Composer).focus()
        else:
            self.run_command(command.name)

    @on(TextArea.Changed, "#composer")
    def _typed(self) -> None:
        composer = self.query_one(Composer)
        self.query_one(Completions).show(commands.matching(composer.text))
        self.session.conversation.draft = composer.text
        self.predict()

    def accept_completion(self, only_partial: bool = False) -> bool:
        """Take the completion under the cursor; with `only_partial` not where nothing is added."""
        completions, composer = self.query_one(Completions), self.query_one(Composer)
        chosen = completions.chosen
        if chosen is None:
            return False
        if only_partial and (composer.text == f"/{chosen.name}" or not chosen.needs_argument):
            composer.fill(f"/{chosen.name}")
            return False
        composer.fill(f"/{chosen.name} ")
        return True

    def move_completion(self, offset: int) -> bool:
        return self.query_one(Completions).move(offset)

    @on(OptionList.OptionSelected, "#completions")
    def _completion_clicked(self, event: OptionList.OptionSelected) -> None:
        self.accept_completion()
        self.query_one(Composer).focus()

    def on_click(self, event: Click) -> None:
        if event.widget is not None and event.widget.id == "model":
            self.action_models()
