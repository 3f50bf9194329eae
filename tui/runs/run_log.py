"""The end of a run's log, followed as it grows."""

from __future__ import annotations

from textual.widgets import Log

from kgpt_tui.runs.run_monitor import MAX_LOG_LINES, RunMonitor
from kgpt_tui.shared.display import sanitize


class RunLog(Log):
    """train.log as a `RunMonitor` reads it; it keeps its position when scrolled up."""

    HELP_TITLE = "Log"

    def __init__(self, monitor: RunMonitor, id: str | None = None):
        super().__init__(id=id, max_lines=MAX_LOG_LINES)
        self._monitor = monitor
        self._appended = 0

    def update_view(self) -> None:
        """Append the lines that are new."""
        if self._monitor.log_lines < self._appended:
            self.clear()
            self._appended = 0
        new = self._monitor.log_lines - self._appended
        self._appended = self._monitor.log_lines
        if new:
            lines = list(self._monitor.log)[-new:]
            self.write_lines([sanitize(line).replace("\n", " ") for line in lines])
