"""The end of a run's log, followed as it grows."""

from __future__ import annotations

from textual.widgets import Log

from kgpt_tui.runs.run_monitor import LOG_LINES, RunFeed
from kgpt_tui.shared.display import sanitize


class RunLog(Log):
    """train.log as a `RunFeed` reads it; stays where it is when scrolled up."""

    HELP_TITLE = "Log"

    def __init__(self, feed: RunFeed, id: str | None = None):
        super().__init__(id=id, max_lines=LOG_LINES)
        self._feed = feed
        self._written = 0

    def draw(self) -> None:
        """Write the lines that are new."""
        if self._feed.log_lines < self._written:
            self.clear()
            self._written = 0
        new = self._feed.log_lines - self._written
        self._written = self._feed.log_lines
        if new:
            lines = list(self._feed.log)[-new:]
            self.write_lines([sanitize(line).replace("\n", " ") for line in lines])
