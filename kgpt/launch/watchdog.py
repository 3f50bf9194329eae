"""Notices that a process of the group is lost, also while this one waits for it within a step.

Every process counts up a heartbeat. Process 0 looks at all of them and says which is lost; the
others look at that, and at process 0. A process that fails says so itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from kgpt.launch.process_group import ProcessGroup
from kgpt.launch.store import ADVICE, KeyValueStore, ProcessLost

INTERVAL_S = 1.0
TIMEOUT_S = 10.0
LEFT = "left"  # the heartbeat of a process that has ended well
HEARTBEATS, LOST = "kgpt/heartbeats/", "kgpt/lost"


class Watchdog:
    """Heartbeats of this process, and a look at those of the others, in a thread.

    Args:
        on_lost: called once, from the thread, with a sentence.
    """

    def __init__(
        self,
        store: KeyValueStore,
        group: ProcessGroup,
        on_lost: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.store, self.group, self.on_lost, self.clock = store, group, on_lost, clock
        watched = range(1, group.num_processes) if group.is_primary else (0,)
        self._seen = dict.fromkeys(map(str, watched), ("", clock()))
        self._count = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End well: the others do not miss this process."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self.store.set(f"{HEARTBEATS}{self.group.process_id}", LEFT)

    def lost(self) -> str | None:
        """Beat once, and look at the others: a sentence if one of them is lost."""
        self._count += 1
        try:
            self.store.set(f"{HEARTBEATS}{self.group.process_id}", str(self._count))
            if sentence := self.store.get(LOST, 0):
                return sentence
            rank = self._missing()
            if rank is None:
                return None
            sentence = f"Process {rank} of {self.group.num_processes} is lost; {ADVICE}."
            self.store.set(LOST, sentence)
            return sentence
        except ProcessLost as error:
            return str(error)

    def fail(self, error: str) -> None:
        """Tell the others that this process fails; process 0 lets them hear it before it ends."""
        self._stopped.set()
        with contextlib.suppress(ProcessLost):
            if self.store.get(LOST, 0) is None:
                self.store.set(LOST, f"Process {self.group.process_id} failed: {error}")
                time.sleep(3 * INTERVAL_S if self.group.is_primary else 0)

    def _missing(self) -> str | None:
        """The rank of a process whose heartbeat has not changed for `TIMEOUT_S`."""
        if self.group.is_primary:
            found = self.store.entries(HEARTBEATS)
        else:
            found = {f"{HEARTBEATS}0": self.store.get(f"{HEARTBEATS}0", 0) or ""}
        now = self.clock()
        for rank, (before, since) in self._seen.items():
            value = found.get(f"{HEARTBEATS}{rank}", "")
            if value != before:
                self._seen[rank] = value, now
            elif value != LEFT and now - since > TIMEOUT_S:
                return rank
        return None

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            if (sentence := self.lost()) is not None and not self._stopped.is_set():
                self.on_lost(sentence)
                return
