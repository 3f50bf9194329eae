"""Draws a chat: the listener of the controller, which changes the widgets of the screen."""

from __future__ import annotations

import time
from typing import Any

from textual.screen import Screen
from textual.timer import Timer
from textual.widgets import Static

from kgpt.errors import KgptError
from kgpt_tui.chat import status
from kgpt_tui.chat.clipboard import copy_outside
from kgpt_tui.chat.composer import Composer
from kgpt_tui.chat.connection import Severity
from kgpt_tui.chat.controller import ChatController
from kgpt_tui.chat.conversation import Message
from kgpt_tui.chat.conversation_list import ConversationList
from kgpt_tui.chat.message_list import MessageList
from kgpt_tui.chat.sampling_panel import SamplingPanel
from kgpt_tui.chat.session import last_answer
from kgpt_tui.chat.store import Store
from kgpt_tui.chat.token_colors import Palette
from kgpt_tui.chat.token_panel import NextTokens, TokenPanel
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.display import sanitize

PROGRESS_S = 0.05  # between drawings of an answer that grows
LATE_STOP_S = 1.0  # an Escape so soon after the end of an answer was meant to stop it


class ChatView:
    """The widgets of `screen`, drawn from its controller."""

    def __init__(self, screen: Screen[Any]):
        self.controller = ChatController(Store(None), self)  # until the screen has its store
        self._screen = screen
        self._progress: Timer | None = None
        self._finished = 0.0  # when the last answer ended, until an Escape was taken as its stop

    @property
    def messages(self) -> MessageList:
        return self._screen.query_one(MessageList)

    @property
    def composer(self) -> Composer:
        return self._screen.query_one(Composer)

    @property
    def tokens(self) -> TokenPanel:
        return self._screen.query_one(TokenPanel)

    @property
    def sampling_panel(self) -> SamplingPanel:
        return self._screen.query_one(SamplingPanel)

    @property
    def uses_markdown(self) -> bool:
        """True if answers are drawn as Markdown: when wanted, or by default for chat models."""
        rendering = kgpt_app(self._screen).settings.rendering
        is_text = self.controller.session.is_text
        return rendering == "markdown" or (rendering == "auto" and not is_text)

    # -- what the controller reports ---------------------------------------------------------

    def say(self, text: str, severity: Severity = "information") -> None:
        """A message in the corner; `text` is data."""
        self._screen.notify(sanitize(text), severity=severity, markup=False)

    def task_failed(self, error: BaseException) -> None:
        """End the app, as an error in a handler does."""

        async def fail() -> None:
            raise error

        self._screen.run_worker(fail())

    async def model_connected(self, model: str) -> None:
        if model:
            kgpt_app(self._screen).save_settings(last_model=model)
        await self.redraw()
        self.sampling_changed()
        self._screen.refresh_bindings()

    def connection_changed(self) -> None:
        self.draw_frame()
        self._screen.refresh_bindings()

    async def messages_changed(self, chosen: Message | None = None) -> None:
        await self.redraw()
        if chosen is not None:
            self.messages.choose(chosen)

    async def conversation_opened(self) -> None:
        self.composer.fill(self.controller.conversation.draft)
        self.messages.chosen = None
        self.tokens.inspect(None)
        await self.redraw(keep=False)
        self.draw_sampling()

    async def generation_started(self, answer: Message) -> None:
        messages = self.messages
        messages.chosen = None
        await self.redraw()
        messages.anchor()
        if view := messages.view(answer):
            view.live = True
            view.refresh_text()
        self._progress = self._screen.set_interval(PROGRESS_S, self._draw_progress)
        self._screen.refresh_bindings()

    def takes_late_stop(self) -> bool:
        """True once after each answer, where it has only just ended."""
        is_late = time.monotonic() - self._finished < LATE_STOP_S
        self._finished = 0.0
        return is_late

    def generation_finished(self, answer: Message) -> None:
        self._finished = time.monotonic()
        if self._progress is not None:
            self._progress.stop()
        if not self._screen.is_mounted:
            return
        if view := self.messages.view(answer):
            view.live = False
            view.refresh_text()
        self.draw_fitted()
        self.predict()
        self._screen.refresh_bindings()

    def details_changed(self) -> None:
        self.draw_frame()
        self.draw_entries()

    def sampling_changed(self) -> None:
        self.draw_sampling()
        self.predict()

    def predict(self) -> None:
        self._screen.query_one(NextTokens).schedule()

    async def show_next_tokens(self) -> None:
        """Ask for the next token after the typed text."""
        next_tokens, session = self._screen.query_one(NextTokens), self.controller.session
        if not self._screen.has_class("-panel") or self.controller.answering is not None:
            return
        if session.client is None:
            next_tokens.show([], "Load a model to see its next token.")
            return
        if session.info is not None and not session.info.is_kgpt:
            next_tokens.show([], "This server does not predict the next token.")
            return
        try:
            typed = self.composer.text
            next_tokens.show(await session.next_tokens("" if typed.startswith("/") else typed))
        except KgptError as error:
            next_tokens.show([], str(error))

    def copy(self, message: Message) -> None:
        """Copy the text of `message` to the clipboard."""
        self.copy_text(message.content)

    def copy_text(self, text: str) -> None:
        """Copy a text to the clipboard, and say so."""
        self._screen.app.copy_to_clipboard(text.encode("utf-8", "replace").decode())
        self.say(f"Copied {len(text)} characters{copy_outside(text)}.")

    async def toggle_markdown(self) -> None:
        wanted = "plain" if self.uses_markdown else "markdown"
        kgpt_app(self._screen).save_settings(rendering=wanted)
        await self.redraw()

    def toggle_coloring(self) -> None:
        """Colour tokens by entropy instead of probability, or the other way round."""
        app = kgpt_app(self._screen)
        by = "entropy" if app.settings.colouring == "probability" else "probability"
        app.save_settings(colouring=by)
        self.draw_tokens()

    def inspect_default(self) -> None:
        """Inspect the chosen message, or else the last answer, where no answer is inspected."""
        answer = self.messages.chosen or last_answer(self.controller.path)
        if self.tokens.answer is None and answer is not None and answer.tokens:
            self.tokens.inspect(answer)

    # -- drawing -----------------------------------------------------------------------------

    async def redraw(self, keep: bool = True) -> None:
        """Draw everything; `keep` leaves as many messages mounted as there are."""
        await self.messages.show(self.controller.conversation, self.uses_markdown, keep=keep)
        self.draw_fitted()

    def draw_fitted(self) -> None:
        """Draw what is cut to the width of the screen."""
        self.draw_frame()
        self.draw_entries()
        self.draw_tokens()

    def draw_frame(self) -> None:
        """Title, model, status and what an empty chat says."""
        controller, narrow = self.controller, self._screen.has_class("-narrow")
        self._static("#title").update(status.title_line(controller))
        self._static("#model").update(status.model_line(controller, narrow))
        self._static("#status").update(status.status_line(controller))
        self._static("#empty").update(status.greeting(controller))
        is_text = controller.session.is_text
        self.composer.placeholder = "Text to continue…" if is_text else "Message…"

    def _static(self, selector: str) -> Static:
        return self._screen.query_one(selector, Static)

    def _draw_progress(self) -> None:
        if view := self.messages.view(self.controller.answering):
            view.refresh_text(now=False)
        self._static("#status").update(status.status_line(self.controller))

    def draw_entries(self) -> None:
        """List the conversations, or those that were searched for."""
        listed = self._screen.query_one(ConversationList)
        try:
            entries = self.controller.session.store.entries(listed.words)
        except KgptError:  # a locked database: the list stays as it is
            return
        listed.show(entries, self.controller.conversation.id)

    def draw_sampling(self) -> None:
        session = self.controller.session
        self.sampling_panel.show(session.sampling, session.default_sampling)

    def draw_tokens(self) -> None:
        """Colour the inspected answer, and show the token under the cursor."""
        panel = self.tokens
        if panel.answer is not None and panel.answer not in self.controller.path:
            panel.inspect(None)
        self.color_tokens()
        panel.render_token(kgpt_app(self._screen).settings.colouring)

    def color_tokens(self) -> None:
        """Shade the tokens of the inspected answer."""
        panel = self.tokens
        by = kgpt_app(self._screen).settings.colouring
        palette = Palette.of(self._screen.app.theme_variables, by)
        answer = panel.answer if panel.is_open else None
        self.messages.color_tokens(answer, palette, panel.position)
