"""Several runs side by side: their curves in one chart, and a table of differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static

from kgpt.formatting import NONE, count, number
from kgpt_tui.runs.chart import PALETTE
from kgpt_tui.runs.multi_run_chart import MultiRunChart
from kgpt_tui.runs.run_config import flat_config
from kgpt_tui.runs.run_list import differing_keys
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.run_state import state_color
from kgpt_tui.shared.dialogs import DismissOnceMixin
from kgpt_tui.shared.display import one_line
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen

CURVES = {"loss": "loss", "val_loss": "validation loss", "grad_norm": "gradient norm",
          "lr": "learning rate", "tokens_per_s": "tokens/s"}  # fmt: skip


class CompareScreen(DismissOnceMixin, LiveScreen):
    """The curves of several runs, and every option in which they differ."""

    CSS_PATH: ClassVar = ["charts.tcss", "compare.tcss"]
    HELP_TITLE = "Comparing runs"
    BINDINGS = [
        Binding("m", "curve(1)", "Next metric", id="compare.curve"),
        Binding("M", "curve(-1)", "Previous metric", id="compare.curve_before", show=False),
        Binding("o", "smooth", "Smooth", id="compare.smooth"),
        Binding("l", "log_scale", "Log scale", id="compare.log_scale"),
        Binding("escape", "dismiss", "Back", id="compare.back"),
    ]

    def __init__(self, paths: Sequence[Path]):
        super().__init__()
        self.monitors = [RunMonitor(path) for path in paths]
        self._configs = [flat_config(monitor.run) for monitor in self.monitors]
        self._drawn: tuple[object, ...] = ()  # the revisions that are shown

    def compose(self) -> ComposeResult:
        yield MultiRunChart(CURVES, id="chart")
        with VerticalScroll(id="facts", can_focus=True):
            yield Static(id="table")
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(MultiRunChart).chart.focus()

    async def poll(self) -> None:
        for monitor in self.monitors:
            await monitor.read_all()

    def update_view(self) -> None:
        current = tuple(tuple(monitor.revisions.values()) for monitor in self.monitors)
        if current == self._drawn:
            return
        self._drawn = current
        self.query_one(MultiRunChart).show_runs(self.monitors)
        self.query_one("#table", Static).update(self._table())

    def on_resize(self) -> None:
        self._drawn = ()
        self.call_after_refresh(self.update_if_visible)

    def _table(self) -> Content:
        """A row per property, a column per run in the run's colour."""
        rows = [("", [monitor.name for monitor in self.monitors])]
        rows += [("state", [monitor.state for monitor in self.monitors])]
        rows += [("step", [f"{monitor.status.step:,}" for monitor in self.monitors])]
        rows += [("loss", [number(monitor.history.last.get("loss")) for monitor in self.monitors])]
        rows += [("best validation", [_best(monitor) for monitor in self.monitors])]
        rows += [
            (
                "tokens/s",
                [count(monitor.history.last.get("tokens_per_s")) for monitor in self.monitors],
            )
        ]
        for key in differing_keys(self._configs):
            rows.append((key, [str(config.get(key, NONE)) for config in self._configs]))
        left = min(30, max(len(name) for name, _ in rows)) + 3
        width = max(10, min(26, (self.size.width - left - 3) // len(self.monitors)))
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
        return state_color(value) if name == "state" else "$foreground"

    def action_curve(self, offset: int) -> None:
        self.query_one(MultiRunChart).cycle_metric(offset)

    def action_smooth(self) -> None:
        self.query_one(MultiRunChart).cycle_smoothing()

    def action_log_scale(self) -> None:
        self.query_one(MultiRunChart).toggle_log_scale()


def _best(monitor: RunMonitor) -> str:
    best = monitor.history.best
    return f"{number(best[0])} at {best[1]:,}" if best else NONE
