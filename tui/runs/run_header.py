"""The header of a run in three lines: state, progress, latest metrics."""

from __future__ import annotations

import time

from textual.content import Content
from textual.widgets import Static

from kgpt.formatting import NONE, age, count, duration, hardware, number
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.run_state import STATE_NOTES, state_badge, state_color
from kgpt_tui.shared.display import sanitize


class RunHeader(Static):
    """State, progress and metrics of a `RunMonitor`, as many as fit the width."""

    def __init__(self, monitor: RunMonitor, id: str | None = None):
        super().__init__(id=id)
        self._monitor = monitor
        self.note = ""

    def update_view(self, note: str = "") -> None:
        """Show the monitor's current data; `note` tells of a command not yet obeyed."""
        self.note = note
        self.update(self._content())

    def on_resize(self) -> None:
        self.update(self._content())

    def _content(self) -> Content:
        width = max(20, self.content_size.width)
        lines = [self._state(width), self._bar(width), self._metrics(width)]
        return Content("\n").join(lines)

    def _state(self, width: int) -> Content:
        monitor = self._monitor
        left = Content.assemble((sanitize(monitor.name), "bold $primary"), "  ") + state_badge(
            monitor.state
        )
        remark = self.note or STATE_NOTES.get(monitor.state, "")
        if remark and width >= 60:
            left += Content.styled(f"  {remark}", "$accent" if self.note else "$foreground-muted")
        right, usage = self._machine(), hardware(monitor.history.last)
        if monitor.is_active and usage and left.cell_length + len(f"  {right} · {usage}") <= width:
            right = f"{right} · {usage}"
        return _justify(left, Content.styled(right, "$foreground-muted"), width)

    def _machine(self) -> str:
        status = self._monitor.status
        if self._monitor.is_active or not status.heartbeat:
            parts = [status.backend, status.device.split(" (")[0]]
            return " · ".join(part for part in parts if part)
        return f"ended {age(time.time() - status.heartbeat)} ago".replace("now ago", "just now")

    def _bar(self, width: int) -> Content:
        monitor, status = self._monitor, self._monitor.status
        percent = f"{100 * monitor.progress:3.0f}%"
        total = f"{status.total_steps:,}" if status.total_steps else NONE
        text = f" {percent}  step {status.step:,} of {total}"
        if monitor.is_active and monitor.eta_s is not None and width >= 60:
            text += f"  {duration(monitor.eta_s)} left"
        if width < 44:
            text = f" {percent}  {status.step:,}/{total}"
        space = max(4, width - len(text))
        done = round(monitor.progress * space)
        return Content.assemble(
            ("━" * done, state_color(monitor.state)),
            ("━" * (space - done), "$surface-lighten-2"),
            (text, "$foreground"),
        )

    def _metrics(self, width: int) -> Content:
        last, best = self._monitor.history.last, self._monitor.history.best
        parts = [("loss", number(last.get("loss"))), ("val", number(last.get("val_loss")))]
        if best and width >= 70:
            parts[-1] = (
                "val",
                f"{number(last['val_loss'])} (best {number(best[0])} at {best[1]:,})",
            )
        parts += [
            ("lr", number(last.get("lr"))),
            ("grad", number(last.get("grad_norm"), 2)),
            ("tokens/s", count(last.get("tokens_per_s"))),
            ("tokens", count(self._monitor.status.tokens_seen or None)),
            ("epoch", f"{self._monitor.status.epoch:.2f}"),
        ]
        line = Content("")
        for name, value in parts:
            more = Content.assemble(
                (f"{name} ", "$foreground-muted"), (value, "$foreground"), "   "
            )
            if len(line) + len(more) - 3 > width:
                break
            line += more
        return line


def _justify(left: Content, right: Content, width: int) -> Content:
    """`left` and `right` at the two ends of a line; `right` only if both fit."""
    space = width - left.cell_length - right.cell_length
    return left + " " * space + right if space >= 2 else left.truncate(width, ellipsis=True)
