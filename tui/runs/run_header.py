"""Three lines that say how a run is: its state, how far it came, its latest figures."""

from __future__ import annotations

import time

from textual.content import Content
from textual.widgets import Static

from kgpt_tui.runs.run_monitor import COLOURS, RunFeed
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.formatting import NONE, age, count, duration, figure

EXPLAINED = {
    "starting": "the libraries are being loaded",
    "compiling": "the first step is being compiled; this can take a minute",
    "validating": "the loss over the validation set is being measured",
    "sampling": "the model is writing a sample",
    "saving": "a checkpoint is being written",
    "paused": "p lets it go on",
    "dead": "its process is gone",
    "gone": "its folder was deleted",
}


def badge(condition: str) -> Content:
    """The state of a run as a coloured dot and a word."""
    colour = COLOURS.get(condition, "$accent")
    return Content.assemble(("● ", colour), (condition, f"bold {colour}"))


class RunHeader(Static):
    """State and figures of a `RunFeed`, fitted to the width there is."""

    def __init__(self, feed: RunFeed, id: str | None = None):
        super().__init__(id=id)
        self._feed = feed
        self.note = ""

    def show(self, note: str = "") -> None:
        """Take what the feed knows now; `note` is what was asked of the trainer."""
        self.note = note
        self.update(self._content())

    def on_resize(self) -> None:
        self.update(self._content())

    def _content(self) -> Content:
        width = max(20, self.content_size.width)
        lines = [self._state(width), self._bar(width), self._figures(width)]
        return Content("\n").join(lines)

    def _state(self, width: int) -> Content:
        feed = self._feed
        left = Content.assemble((sanitize(feed.name), "bold $primary"), "  ") + badge(
            feed.condition
        )
        remark = self.note or EXPLAINED.get(feed.condition, "")
        if remark and width >= 60:
            left += Content.styled(f"  {remark}", "$accent" if self.note else "$foreground-muted")
        return _apart(left, Content.styled(self._where(), "$foreground-muted"), width)

    def _where(self) -> str:
        status = self._feed.status
        if self._feed.is_alive or not status.heartbeat:
            parts = [status.backend, status.device.split(" (")[0]]
            return " · ".join(part for part in parts if part)
        return f"ended {age(time.time() - status.heartbeat)} ago".replace("now ago", "just now")

    def _bar(self, width: int) -> Content:
        feed, status = self._feed, self._feed.status
        percent = f"{100 * feed.progress:3.0f}%"
        total = f"{status.total_steps:,}" if status.total_steps else NONE
        text = f" {percent}  step {status.step:,} of {total}"
        if feed.is_alive and feed.eta_s is not None and width >= 60:
            text += f"  {duration(feed.eta_s)} left"
        if width < 44:
            text = f" {percent}  {status.step:,}/{total}"
        room = max(4, width - len(text))
        done = round(feed.progress * room)
        return Content.assemble(
            ("━" * done, COLOURS.get(feed.condition, "$accent")),
            ("━" * (room - done), "$surface-lighten-2"),
            (text, "$foreground"),
        )

    def _figures(self, width: int) -> Content:
        last, best = self._feed.history.last, self._feed.history.best
        parts = [("loss", figure(last.get("loss"))), ("val", figure(last.get("val_loss")))]
        if best and width >= 70:
            parts[-1] = (
                "val",
                f"{figure(last['val_loss'])} (best {figure(best[0])} at {best[1]:,})",
            )
        parts += [
            ("lr", figure(last.get("lr"))),
            ("grad", figure(last.get("grad_norm"), 2)),
            ("tokens/s", count(last.get("tokens_per_s"))),
            ("tokens", count(self._feed.status.tokens_seen or None)),
            ("epoch", f"{self._feed.status.epoch:.2f}"),
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


def _apart(left: Content, right: Content, width: int) -> Content:
    """`left` and `right` at the two ends of a line; `right` only where there is room."""
    room = width - left.cell_length - right.cell_length
    return left + " " * room + right if room >= 2 else left.truncate(width, ellipsis=True)
