"""The chat's server: starting, connecting, changing the model, and what the screen says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from textual import work
from textual.content import Content
from textual.message_pump import MessagePump
from textual.widgets import Static

from kgpt.errors import KgptError
from kgpt.formatting import count
from kgpt_tui import screens
from kgpt_tui.chat.session import ChatSession, last_answer
from kgpt_tui.models.server import Server, wait_until_ready
from kgpt_tui.shared.display import one_line

Base: Any = MessagePump  # its kind collects `@on` methods

WATCH_S = 2.0
METER = 8


class ChatServer(Base):
    """Part of the chat screen."""

    session: ChatSession

    def setup_server(self) -> None:
        self.server = Server()
        self.server_busy = ""
        self.server_problem = ""

    def connect_first(self, model: str | None, address: str | None, key_file: Path | None) -> None:
        """What the command line asked for."""
        self.set_interval(WATCH_S, self._watch)
        if address:
            self._connect(address, key_file)
        elif model:
            self.use_model(model)

    def use_model(self, model: str) -> None:
        """Serve `model` (a directory, run or run@step) from now on."""
        if self.answering is not None:
            self.stop_answer()
        self._start(model)

    @work(group="server", exclusive=True)
    async def _start(self, model: str) -> None:
        self.session.client = self.session.facts = None
        try:
            self._tell(f"starting {model}")
            client = await self.server.start(model, self._tell)
            facts = await client.model()
        except KgptError as error:
            self._failed(error)
            return
        self.app.save_settings(last_model=model)  # type: ignore[attr-defined]
        await self._connected(client, facts)

    @work(group="server", exclusive=True)
    async def _connect(self, address: str, key_file: Path | None) -> None:
        self.session.client = self.session.facts = None
        try:
            self._tell(f"connecting to {address}")
            client = await self.server.connect(address, key_file)
            await wait_until_ready(client, self._tell)
            facts = await client.model()
        except KgptError as error:
            self._failed(error)
            return
        await self._connected(client, facts)

    async def _connected(self, client, facts) -> None:
        self.server_busy = self.server_problem = ""
        self.session.client, self.session.facts = client, facts
        self.session.conversation.model = facts.id
        await self.redraw()
        self.predict()

    def _tell(self, what: str) -> None:
        self.server_busy, self.server_problem = what, ""
        self.draw_frame()

    def _failed(self, error: KgptError) -> None:
        self.server_busy, self.server_problem = "", str(error)
        self.say(str(error), "error")
        self.draw_frame()

    def _watch(self) -> None:
        """Say so when the own engine has ended."""
        if self.session.client is not None and (said := self.server.has_ended()):
            self.session.client = None
            self.server_problem = f"{said} Choose a model again: ctrl+l."
            self.say(self.server_problem, "error")
            self.draw_frame()

    def leave(self) -> None:
        """The app ends, and an engine of its own with it."""
        self.server.kill()
        self.autosave()

    def action_models(self) -> None:
        current = self.server.model
        self.app.push_screen(
            screens.make("models", current), lambda model: self.use_model(model) if model else None
        )

    # -- what is said of it ------------------------------------------------------------------

    def server_line(self) -> Content:
        """The model, and whether it is ready."""
        if self.server_busy:
            return Content.assemble(
                ("◌ ", "$warning"), (one_line(self.server_busy, 60), "$warning")
            )
        if self.session.client is None:
            return Content.assemble(("○ no model", "$foreground-muted"))
        facts = self.session.facts
        assert facts is not None
        name = self.server.model or facts.id
        parts = [("● ", "$success"), (one_line(name, 32), "$foreground")]
        if not self.has_class("-narrow"):
            size = f" {count(facts.parameters)}" if facts.parameters else ""
            backend = f" {facts.backend}" if facts.backend else ""
            kind = " · text" if self.session.is_text else ""
            parts.append((f"{size}{backend}{kind}", "$foreground-muted"))
        return Content.assemble(*parts)

    def draw_status(self) -> None:
        self.query_one("#status", Static).update(self.status_line())

    def status_line(self) -> Content:
        """Context used, tokens, tokens a second; while writing also how to stop."""
        answer = self.answering or last_answer(self.session.conversation.path)
        parts: list[tuple[str, str]] = []
        context = self.session.facts.context if self.session.facts else 0
        used = answer.prompt_tokens + len(answer.tokens) if answer else 0
        if context:
            share = min(1.0, used / context)
            full = round(share * METER)
            colour = "$error" if share > 0.95 else ("$warning" if share > 0.8 else "$primary")
            parts += [("━" * full, colour), ("─" * (METER - full), "$border")]
            parts.append((f" {used}/{context} context", "$foreground-muted"))
        if answer is not None and answer.tokens:
            parts.append((f"  {len(answer.tokens)} tokens", "$foreground-muted"))
            parts.append((f"  {answer.speed:.1f}/s", "$foreground-muted"))
        if self.answering is not None:
            parts.insert(0, ("writing, esc stops  ", "$accent"))
        return Content.assemble(*parts) if parts else Content("")
