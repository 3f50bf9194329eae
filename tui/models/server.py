"""The server of the chat: one that runs already, or a `kgpt serve` started by this app.

A server started here is a child process in its own session, on loopback, with a random API key in
a file that only the user can read. It ends with the app.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kgpt.errors import UsageError
from kgpt.runs import resolve_model
from kgpt_tui.models.client import Client, ServerError
from kgpt_tui.models.server_info import Health

ADDRESS = re.compile(r"kgpt: serving .* on (http://\S+)")
PROGRAM = [sys.executable, "-m", "kgpt"]
POLL_S = 0.1
START_TIMEOUT_S = 180.0  # for the socket: importing the backend takes a while on a cold disk
SHUTDOWN_TIMEOUT_S = 3.0


class Server:
    """The server in use; `client` is set once `start` or `connect` has returned."""

    def __init__(self, program: list[str] | None = None):
        self.client: Client | None = None
        self.model = ""  # as the user named it; empty for a server not started here
        self._program = program or PROGRAM
        self._process: asyncio.subprocess.Process | None = None
        self._folder: Path | None = None

    @property
    def is_own(self) -> bool:
        return self._process is not None

    async def connect(self, address: str, key_file: Path | None = None, model: str = "") -> Client:
        """Use the server at `address`, and of its models `model`, or the first."""
        await self.stop()
        self.client = Client(address, read_key(key_file) if key_file else "", model=model)
        return self.client

    async def start(self, model: str, on_progress: Callable[[str], None]) -> Client:
        """Serve `model` (a directory, run or run@step); `on_progress` is called with each stage.

        Raises:
            KgptError: there is no such model, or the server ended; with the last line of its log.
        """
        await self.stop()
        source = str(resolve_model(model))
        self.model = model
        on_progress(f"starting the engine for {model}")
        self._folder = Path(tempfile.mkdtemp(prefix="kgpt-tui-"))
        key_file = self._folder / "key"
        key_file.touch(mode=0o600)
        key_file.write_text(key := secrets.token_urlsafe(32))
        with self._log.open("wb") as log, (self._folder / "out").open("wb") as out:
            self._process = await asyncio.create_subprocess_exec(
                *self._program, "serve", "--model", source, "--name", model, "--port", "0",
                "--api-key-file", str(key_file), stdin=asyncio.subprocess.DEVNULL,
                stdout=out, stderr=log, start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip
        try:
            self.client = Client(await self._address(), key)
            await wait_until_ready(self.client, on_progress, self._check)
        except BaseException:
            await self.stop()
            raise
        return self.client

    async def stop(self) -> None:
        """Disconnect, and end an own server."""
        if self.client is not None:
            await self.client.close()
            self.client = None
        if self._process is not None:
            await _end(self._process)
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self.model = ""

    def kill(self) -> None:
        """End an own server at once, when there is no time to wait."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def _log(self) -> Path:
        assert self._folder is not None
        return self._folder / "log"

    async def _address(self) -> str:
        assert self._folder is not None
        for _ in range(int(START_TIMEOUT_S / POLL_S)):
            self._check()
            output = (self._folder / "out").read_text(encoding="utf-8", errors="replace")
            if found := ADDRESS.search(output):
                return found[1]
            await asyncio.sleep(POLL_S)
        raise ServerError("The engine did not open its port in time; try again.")

    def exit_reason(self) -> str:
        """Why the own server ended; an empty string while it runs."""
        if self._process is None or self._process.returncode is None:
            return ""
        return f"The engine ended: {self._last_words(self._process.returncode).rstrip('.')}."

    def _last_words(self, code: int) -> str:
        """What kgpt itself said last, or else how the process ended; not what libraries logged."""
        log = self._log.read_text(encoding="utf-8", errors="replace")
        said = [line for line in log.splitlines() if line.startswith("kgpt: ")]
        if code < 0:
            hint = "; memory may have run out" if code == -signal.SIGKILL else ""
            return f"it was killed by {signal.Signals(-code).name}{hint}"
        return said[-1].removeprefix("kgpt: ") if said else f"its exit code is {code}"

    def _check(self) -> None:
        if problem := self.exit_reason():
            raise ServerError(problem)


async def wait_until_ready(
    client: Client, on_progress: Callable[[str], None], check: Callable[[], None] = lambda: None
) -> None:
    """Wait until the engine is warm; `on_progress` is called with the stage."""
    while True:
        check()
        health = await client.health()
        if health.status == "ready":
            return
        on_progress(_progress(health))
        await asyncio.sleep(2 * POLL_S)


def _progress(health: Health) -> str:
    if health.status == "draining":
        raise ServerError("The server is shutting down; start another.")
    if not health.progress:
        return "loading the model"
    done, total = health.progress
    return f"compiling {done} of {total}"


def read_key(path: Path) -> str:
    """The API key in a file."""
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The key file {path} cannot be read: {error}.") from None


def _end_with_parent() -> None:
    """In the child: receive SIGTERM when the app ends, even if it was killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, see prctl(2)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), SHUTDOWN_TIMEOUT_S)
            return
