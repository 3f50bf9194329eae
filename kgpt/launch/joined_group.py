"""What the processes of a group tell each other while they train, besides tensors.

Process 0 decides, and the others do as it does: which run, which checkpoint, which commands.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from kgpt.errors import KgptError
from kgpt.launch.process_group import ProcessGroup
from kgpt.launch.store import ADVICE, KeyValueStore, ProcessLost
from kgpt.launch.watchdog import INTERVAL_S, TIMEOUT_S, Watchdog

BROADCASTS, SIGNALS = "kgpt/broadcasts/", "kgpt/signals/"
WAIT_S = 5.0  # between two looks; how long others may take is the watchdog's matter
KEPT_BROADCASTS = 1000  # nobody is so many steps behind


class DecidedError(KgptError):
    """What process 0 could not do, raised in every process."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class JoinedGroup:
    """The group of this process, once all have met.

    All processes call the same methods in the same order.

    Attributes:
        group: which process of how many this is.
    """

    def __init__(
        self,
        group: ProcessGroup,
        store: KeyValueStore,
        shut_down: Callable[[], None] = lambda: None,
    ):
        self.group, self.store, self._shut_down = group, store, shut_down
        self._broadcasts = 0
        self._watchdog: Watchdog | None = None
        self._lost: str | None = None  # what the watchdog says
        self._is_explaining = False  # the main thread waits for that
        self._found = threading.Event()

    @property
    def is_primary(self) -> bool:
        return self.group.is_primary

    def broadcast(self, make: Callable[[], Any]) -> Any:
        """What `make` returns in process 0, a value of JSON; the others do not call it.

        Raises:
            KgptError: `make` did, in process 0; in the others, too.
        """
        self._broadcasts += 1
        key = f"{BROADCASTS}{self._broadcasts}"
        if not self.is_primary:
            return self._receive(key)
        try:
            value = make()
        except KgptError as error:
            self.store.set(key, json.dumps({"error": str(error), "exit_code": error.exit_code}))
            raise
        self.store.set(key, json.dumps({"value": value}))
        if self._broadcasts > KEPT_BROADCASTS:
            self.store.delete(f"{BROADCASTS}{self._broadcasts - KEPT_BROADCASTS}")
        return value

    def _receive(self, key: str) -> Any:
        while (text := self.store.get(key, WAIT_S)) is None:
            pass
        received = json.loads(text)
        if "error" in received:
            raise DecidedError(received["error"], received["exit_code"])
        return received["value"]

    def report_signal(self, name: str) -> None:
        """Tell process 0 that this process was asked to stop."""
        self.store.set(f"{SIGNALS}{self.group.process_id}", name)

    def reported_signal(self) -> str | None:
        """In process 0: a signal that another process has received."""
        return next(iter(self.store.entries(SIGNALS).values()), None)

    def watch(self, end: Callable[[str], None]) -> None:
        """Look for lost processes from now on; `end` ends this one, with a sentence."""

        def on_lost(sentence: str) -> None:
            self._lost = sentence
            self._found.set()
            if not self._is_explaining:
                end(sentence)

        self._watchdog = Watchdog(self.store, self.group, on_lost)
        self._watchdog.start()

    def lost_process(self, error: BaseException) -> ProcessLost:
        """Why a step failed with `error`: which process is lost, once the watchdog knows."""
        self._is_explaining = True
        self._found.wait(TIMEOUT_S + 3 * INTERVAL_S)
        reason = str(error).partition("\n")[0]
        return ProcessLost(self._lost or f"A process of the group is lost ({reason}); {ADVICE}.")

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends."""
        if self._watchdog is not None and not isinstance(error, (ProcessLost, DecidedError)):
            self._watchdog.fail(str(error) or type(error).__name__)

    def leave(self) -> None:
        """Wait for the others, and end the group."""
        if self._watchdog is not None:
            self._watchdog.stop()
        self._shut_down()
