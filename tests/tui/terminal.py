"""kgpt-tui in a real terminal, driven through tmux: send keys, capture the screen."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class Terminal:
    """A tmux server of its own with one window, in the folder `home`."""

    def __init__(self, home: Path, size: tuple[int, int] = (120, 40)):
        self.home, self.size = home, size
        self._socket = f"kgpt-{os.getpid()}-{home.name}"

    def start(self, command: str, environment: Mapping[str, str]) -> None:
        """Run `command` in the window; the window stays when it ends."""
        given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        folder, environ = shlex.quote(str(self.home)), f"env -u COLUMNS -u LINES {given}"
        line = f"cd {folder} && {environ} {command}; echo ENDED; cat"
        width, height = map(str, self.size)
        self._tmux("-f", "/dev/null", "new-session", "-d", "-x", width, "-y", height, line)

    def keys(self, *keys: str) -> None:
        for key in keys:
            self._tmux("send-keys", key)
            time.sleep(0.15)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)
        time.sleep(0.15)

    def screen(self, colours: bool = False) -> str:
        return self._tmux("capture-pane", "-p", *(["-e"] if colours else []))

    def wait(self, condition: str | Callable[[], object], seconds: float = 60) -> str:
        """The screen, once it contains a text or a condition is met; fails after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            now = self.screen()
            if (condition in now) if isinstance(condition, str) else condition():
                return now
            assert time.monotonic() < end, f"no {condition!r} in {seconds} s; the screen:\n{now}"
            time.sleep(0.2)

    def press_until(self, key: str, condition: str | Callable[[], object]) -> str:
        """Press `key` until `wait(condition)` succeeds: a busy app may ignore the first one."""
        for _ in range(7):
            self.keys(key)
            with contextlib.suppress(AssertionError):
                return self.wait(condition, 5)
        self.keys(key)
        return self.wait(condition, 5)

    def close(self) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-L", self._socket, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def kgpt_tui(*arguments: str) -> str:
    """The command line of the app, with the interpreter of these tests."""
    call = "from kgpt_tui.app import main; main()"
    return shlex.join([sys.executable, "-c", call, *arguments])
