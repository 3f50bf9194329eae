"""The connection of a chat to its model: starting, connecting, changing the model. No Textual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, Protocol

from kgpt.errors import KgptError
from kgpt_tui.chat.session import ChatSession
from kgpt_tui.models.client import Client
from kgpt_tui.models.server import Server, wait_until_ready

Severity = Literal["information", "warning", "error"]


class ConnectionListener(Protocol):
    """Hears how the connection changes."""

    async def model_connected(self, model: str) -> None:
        """`model` (as the user named it, empty for a server elsewhere) is ready."""

    def connection_changed(self) -> None: ...

    def say(self, text: str, severity: Severity = "information") -> None: ...

    def task_failed(self, error: BaseException) -> None: ...


class ModelConnection:
    """Gives the session its client; `busy` says what is being waited for, `problem` what failed."""

    def __init__(
        self, session: ChatSession, listener: ConnectionListener, server: Server | None = None
    ):
        self.server = server or Server()
        self.busy = ""
        self.problem = ""
        self._session = session
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._last: tuple[Callable[[], Awaitable[Client]], str] | None = None

    @property
    def can_restart(self) -> bool:
        """True if the connection is lost, or was never made."""
        return self._last is not None and self._session.client is None and not self.busy

    def restart(self) -> None:
        """Start the engine, or connect to the server, that was used last."""
        if self._last is not None:
            self._open(*self._last)

    def use_model(self, model: str) -> None:
        """Serve `model` (a directory, run or run@step) from now on."""

        async def open_client() -> Client:
            self._report(f"starting {model}")
            return await self.server.start(model, self._report)

        self._open(open_client, model)

    def connect(self, address: str, key_file: Path | None = None, model: str = "") -> None:
        """Use the server at `address`, and of its models `model`, from now on."""

        async def open_client() -> Client:
            self._report(f"connecting to {address}")
            client = await self.server.connect(address, key_file, model)
            await wait_until_ready(client, self._report)
            return client

        self._open(open_client)

    def _open(self, open_client: Callable[[], Awaitable[Client]], model: str = "") -> None:
        """Connect in a task of its own, once an attempt still under way is cancelled."""
        self._last = (open_client, model)
        if self._task is not None:
            self._task.cancel()
        self._task = start_task(self._connect(self._task, open_client, model), self._listener)

    async def _connect(
        self,
        previous: asyncio.Task[None] | None,
        open_client: Callable[[], Awaitable[Client]],
        model: str,
    ) -> None:
        await cancel(previous)
        self._session.client = self._session.info = None
        try:
            client = await open_client()
            info = await client.model()
        except KgptError as error:
            self._fail(str(error))
            return
        self.busy = self.problem = ""
        self._session.connected(client, info)
        await self._listener.model_connected(model)

    def _report(self, progress: str) -> None:
        self.busy, self.problem = progress, ""
        self._listener.connection_changed()

    def _fail(self, problem: str) -> None:
        self.busy, self.problem = "", problem
        self._listener.say(problem, "error")
        self._listener.connection_changed()

    def check(self) -> None:
        """Report it where the app's own engine has ended."""
        if self._session.client is not None and (reason := self.server.exit_reason()):
            self._session.client = None
            self._fail(f"{reason} f6 starts it again, ctrl+l chooses another.")

    def close(self) -> None:
        """End an engine of the app's own, as the app ends."""
        self.server.kill()


def start_task(
    coroutine: Coroutine[Any, Any, None], listener: ConnectionListener
) -> asyncio.Task[None]:
    """Run `coroutine` beside the caller; an error nobody expected is reported to `listener`."""

    def finished(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            listener.task_failed(error)

    task = asyncio.create_task(coroutine)
    task.add_done_callback(finished)
    return task


async def cancel(task: asyncio.Task[None] | None) -> None:
    """Cancel `task` and wait until it has cleaned up."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task})
