"""`kgpt data` as a child process whose progress bar is parsed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import subprocess
from collections.abc import Callable, Sequence

from kgpt.errors import KgptError

POLL_S = 0.2
_BAR = re.compile(r"(tokenizer|tokens|shakespeare)\s.*?(\d+)%")
_RECOGNIZED = re.compile(r"^Recognized (.+)$", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
STAGES = {"tokenizer": "training a tokenizer", "tokens": "tokenizing"}


class PreparationError(KgptError):
    """The data set could not be prepared; the message is the child's own."""


class DataPreparation:
    """A running `kgpt data` command, attached to a pseudo-terminal.

    The command draws its progress bar on terminals only.

    Attributes:
        recognized: what the command has printed about each source so far.
    """

    def __init__(self, command: Sequence[str]):
        self._terminal, end = pty.openpty()
        os.set_blocking(self._terminal, False)
        environment = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=end, stderr=end, env=environment
        )
        os.close(end)
        self.recognized: list[str] = []
        self._text = ""

    async def wait(self, on_progress: Callable[[str], None]) -> None:
        """Wait for the child to end, passing on its progress as a phrase.

        Raises:
            PreparationError: the child failed.
        """
        try:
            while self._process.poll() is None:
                self._report(on_progress)
                await asyncio.sleep(POLL_S)
            self._report(on_progress)
        finally:
            self.cancel()
        if self._process.returncode:
            lines = [line.strip() for line in self._text.splitlines() if line.strip()]
            message = " ".join(lines[-3:]).rpartition("kgpt: ")[2] if lines else ""
            raise PreparationError(message or f"It ended with code {self._process.returncode}.")

    def _report(self, on_progress: Callable[[str], None]) -> None:
        self._read()
        if found := _BAR.findall(self._text):
            name, percent = found[-1]
            on_progress(f"{STAGES.get(name, name)}, {percent}%")

    def cancel(self) -> None:
        """Terminate the child if it is running, and close its terminal."""
        if self._process.poll() is None:
            self._process.terminate()
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # nothing to read now, or the other end is closed
            while self._terminal >= 0 and (data := os.read(self._terminal, 65536)):
                text = _ESCAPES.sub("", data.decode("utf-8", "replace")).replace("\r", "\n")
                self._text = (self._text + text)[-20000:]
        self.recognized = _RECOGNIZED.findall(self._text) or self.recognized
