"""Several runs side by side: their curves in one chart, and what sets them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from kgpt_tui.runs.chart import PALETTE
from kgpt_tui.runs.overlay import Overlay
from kgpt_tui.runs.run_list import differing_keys
from kgpt_tui.runs.run_monitor import COLOURS, RunFeed
from kgpt_tui.runs.run_settings import flat_config
from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.display import one_line
from kgpt_tui.shared.formatting import NONE, count, figure
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen

CURVES = {"loss": "loss", "val_loss": "validation loss", "grad_norm": "gradient norm",
          "lr": "learning rate", "tokens_per_s": "tokens/s"}  # fmt: skip


class CompareScreen(DismissOnceMixin, LiveScreen):
    """Curves of several runs over each other; the table names each difference."""

    CSS_PATH: ClassVar = ["curves.tcss", "compare.tcss"]
    HELP_TITLE = "Comparing runs"
    BINDINGS = [
        Binding("m", "curve(1)", "Next figure", id="compare.curve"),
        Binding("M", "curve(-1)", "Figure before", id="compare.curve_before", show=False),
        Binding("o", "smooth", "Smooth", id="compare.smooth"),
        Binding("l", "log_scale", "Log scale", id="compare.log_scale"),
        Binding("escape", "leave", "Back", id="compare.leave"),
    ]

    def __init__(self, paths: Sequence[Path]):
        super().__init__()
        self.feeds = [RunFeed(path) for path in paths]
        self._configs = [flat_config(feed.run) for feed in self.feeds]
        self._stamp: tuple = ()

    def compose(self) -> ComposeResult:
        yield Overlay(CURVES, id="chart")
        with VerticalScroll(id="facts", can_focus=True):
            yield Static(id="table")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Overlay).chart.focus()

    async def look(self) -> None:
        for feed in self.feeds:
            await feed.catch_up()

    def draw(self) -> None:
        stamp = tuple(tuple(feed.changes.values()) for feed in self.feeds)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self.query_one(Overlay).show_runs(self.feeds)
        self.query_one("#table", Static).update(self._table())

    def on_resize(self) -> None:
        self._stamp = ()
        self.call_after_refresh(self.draw_if_seen)

    def _table(self) -> Content:
        """A row a difference; a column a run, in the run's colour."""
        rows = [("", [feed.name for feed in self.feeds])]
        rows += [("state", [feed.condition for feed in self.feeds])]
        rows += [("step", [f"{feed.status.step:,}" for feed in self.feeds])]
        rows += [("loss", [figure(feed.history.last.get("loss")) for feed in self.feeds])]
        rows += [("best validation", [_best(feed) for feed in self.feeds])]
        rows += [
            ("tokens/s", [count(feed.history.last.get("tokens_per_s")) for feed in self.feeds])
        ]
        for key in differing_keys(self._configs):
            rows.append((key, [str(config.get(key, NONE)) for config in self._configs]))
        left = min(30, max(len(name) for name, _ in rows)) + 3
        width = max(10, min(26, (self.size.width - left - 3) // len(self.feeds)))
        lines = []
        for name, values in rows:
            parts: list[Content | tuple[str, str]] = [
                (f" {one_line(name, 30):<{left}}", "$foreground-muted")
            ]
            for n, value in enumerate(values):
                text = f"{one_line(value, width - 2):<{width}}"
                parts.append((text, self._style(name, value, n)))
            lines.append(Content.assemble(*parts))
        return Content("\n").join(lines)

    def _style(self, name: str, value: str, column: int) -> str:
        if not name:
            return f"bold ${PALETTE[column % len(PALETTE)]}"
        return COLOURS.get(value, "$accent") if name == "state" else "$foreground"

    def action_curve(self, by: int) -> None:
        self.query_one(Overlay).step(by)

    def action_smooth(self) -> None:
        self.query_one(Overlay).smooth()

    def action_log_scale(self) -> None:
        self.query_one(Overlay).toggle_log()

    def action_leave(self) -> None:
        self.dismiss(None)


def _best(feed: RunFeed) -> str:
    return (
        f"{figure(feed.history.best[0])} at {feed.history.best[1]:,}" if feed.history.best else NONE
    )
