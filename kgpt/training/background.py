"""Work beside the training: one function at a time, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future


class BackgroundTask:
    """Runs a function in a thread; what it raises is raised where it is waited for.

    The thread ends with the process: a second Ctrl-C does not wait for it.
    """

    def __init__(self) -> None:
        self._result: Future[None] | None = None

    def start(self, function: Callable[[], None]) -> None:
        """Run `function`, once the one before is done."""
        self.wait()
        self._result = Future()
        threading.Thread(target=_run, args=(function, self._result), daemon=True).start()

    def wait(self) -> None:
        """Wait until nothing runs; raises what the function raised."""
        result, self._result = self._result, None
        if result is not None:
            result.result()

    def raise_if_failed(self) -> None:
        """Raise what the function raised, if it is done; do not wait otherwise."""
        if self._result is not None and self._result.done():
            self.wait()


def _run(function: Callable[[], None], result: Future[None]) -> None:
    try:
        function()
    except BaseException as error:
        result.set_exception(error)
    else:
        result.set_result(None)
