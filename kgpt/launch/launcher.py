"""Starts the processes of a group, shows what they print, and stops all when one fails.

A process that fails, such as one that is killed, leaves the others waiting for it in the middle of
a step. They notice by themselves; the launcher says which one it was and kills what does not end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from kgpt.errors import KgptError
from kgpt.launch.commands import Command

POLL_S = 0.05
STOP_TIMEOUT_S = 15.0  # for the others, once a process has failed
LAST_LINES = 10
INTERRUPTED = 130

Show = Callable[[str], None]


class ProcessFailed(KgptError):
    """A process of a group ended with an error, and the others were stopped."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Member:
    """A process under way, whose lines are shown with its rank before them.

    Attributes:
        last_lines: what it printed last.
        stopped: whether the launcher has killed it.
    """

    def __init__(self, command: Command, show: Show):
        self.command, self.show = command, show
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self.stopped = False
        self._process = subprocess.Popen(
            command.argv,
            env=dict(command.environ),
            stdin=subprocess.PIPE if command.node else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it once, from the launcher
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def exit_code(self) -> int | None:
        """As `Popen.returncode`: negative for a signal, None while it runs."""
        return self._process.poll()

    @property
    def failed(self) -> bool:
        """Whether it ended, of itself, with an error."""
        return self.exit_code not in (None, 0, INTERRUPTED) and not self.stopped

    @property
    def blames_another(self) -> bool:
        """Whether it says that it ended because another process is lost."""
        return any(line.startswith("kgpt: Process ") for line in self.last_lines)

    def interrupt(self) -> None:
        """Ask it to save and stop; a second time, to end at once."""
        with suppress(OSError):
            if self._process.stdin is not None:  # ssh passes no signals on
                self._process.stdin.close()
            else:
                self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self.exit_code is None:
            self.stopped = True
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # and what it has started

    def wait(self) -> None:
        """Until it has ended and its last line is shown."""
        self._process.wait()
        self._reader.join(timeout=1)  # a process that it has started may hold the pipe

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            self.last_lines.append(text)
            with suppress(BrokenPipeError):  # the reader of the output has exited, as `head` does
                self.show(f"[{self.command.process_id}] {text}")


def launch(commands: Sequence[Command], show: Show | None = None) -> int:
    """Run all processes of a group; returns 0, or 130 after Ctrl-C.

    The first Ctrl-C is passed on to each process, which saves and stops; so is a second, after
    which each ends at once.

    Raises:
        ProcessFailed: one ended with an error. The others are stopped; the exit code is its own.
    """
    show = show or _print
    members: list[Member] = []
    try:
        with _interrupts(members) as interrupted:
            for command in commands:
                members.append(Member(command, show))
            _wait(members, interrupted)
    finally:
        for member in members:
            member.kill()
            member.wait()
    if any(member.failed for member in members):
        raise _failure(members, show)
    return INTERRUPTED if any(member.exit_code == INTERRUPTED for member in members) else 0


def _wait(members: Sequence[Member], interrupted: Callable[[], int]) -> None:
    """Until all have ended, or `STOP_TIMEOUT_S` after one has failed; the rest may be killed."""
    deadline = float("inf")
    while any(member.exit_code is None for member in members) and time.monotonic() < deadline:
        time.sleep(POLL_S)
        if interrupted() > 2:
            return
        if deadline == float("inf") and any(member.failed for member in members):
            deadline = time.monotonic() + STOP_TIMEOUT_S


@contextmanager
def _interrupts(members: Sequence[Member]) -> Iterator[Callable[[], int]]:
    """Pass SIGINT and SIGTERM on to `members` in the block; yields how many there were."""
    count = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        for member in members:
            member.interrupt()

    main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if main else ()
    before: dict[int, Any] = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield lambda: count
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failure(members: Sequence[Member], show: Show) -> ProcessFailed:
    """The error of the process that failed first: of a signal, or not because of another."""
    failed = [member for member in members if member.failed]
    first = min(failed, key=lambda member: (not _signal(member.exit_code), member.blames_another))
    name, code = first.command.name, first.exit_code or 1
    if first.last_lines:
        show(f"The last lines of {name}:")
        for line in first.last_lines:
            show(f"  {line}")
    number = _signal(code)
    how = f"by {signal.Signals(number).name}" if number else f"with exit code {code}"
    rest = ", and the others were stopped" if len(members) > 1 else ""
    advice = "correct the command" if code == 2 else "a run goes on with --resume"
    return ProcessFailed(f"{name.capitalize()} ended {how}{rest}; {advice}.", 2 if code == 2 else 1)


def _signal(code: int | None) -> int | None:
    """The signal that ended a process, also on another machine, where a shell reports it."""
    number = -(code or 0) if (code or 0) < 0 else (code or 0) - 128
    return number if number in set(signal.Signals) else None


def _print(line: str) -> None:
    print(line, flush=True)
