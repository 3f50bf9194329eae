"""All runs in a table, with a chart of the pinned ones."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import DataTable, Input, Static

from kgpt.errors import KgptError
from kgpt.files import os_errors_as_kgpt
from kgpt.formatting import age, count, number
from kgpt.runs import Run, fork_mark, runs_folder
from kgpt_tui.runs.chart import PALETTE
from kgpt_tui.runs.compare import CompareScreen
from kgpt_tui.runs.multi_run_chart import MultiRunChart
from kgpt_tui.runs.run_list import RunList, RunRow, differences, differing_keys
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.run_state import state_badge
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen

MIN_WIDTHS = {"pin": 0, "run": 0, "state": 0, "step": 40, "loss": 40, "best val": 60,
           "tokens/s": 90, "age": 70, "differs in": 80}  # fmt: skip
CURVES = {"loss": "loss", "val_loss": "validation loss"}


class RunsScreen(LiveScreen):
    """Filter, pin, compare, watch and delete runs."""

    CSS_PATH: ClassVar = ["charts.tcss", "runs.tcss"]
    HELP_TITLE = "Runs"
    AUTO_FOCUS = "DataTable"
    BINDINGS = [
        Binding("enter", "watch", "Watch", id="runs.watch"),
        Binding("space", "pin", "Pin", id="runs.pin", tooltip="Draw this run in the chart"),
        Binding("c", "compare", "Compare", id="runs.compare"),
        Binding("n", "new", "New run", id="runs.new"),
        Binding("v", "curve", "Train/val", id="runs.curve"),
        Binding("o", "smooth", "Smooth", id="runs.smooth", show=False),
        Binding("l", "log_scale", "Log scale", id="runs.log_scale", show=False),
        Binding("slash", "filter", "Filter", id="runs.filter"),
        Binding("d", "delete", "Delete", id="runs.delete"),
        Binding("escape", "clear", "All runs", id="runs.clear", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.list = RunList()
        self.pinned: dict[Path, RunMonitor] = {}
        self._preview_monitor: RunMonitor | None = None  # of the highlighted run, if none is pinned
        self._visible: list[RunRow] = []
        self._layout: tuple[object, ...] = ()  # columns and rows of the table

    def compose(self) -> ComposeResult:
        with Horizontal(id="bar"):
            yield Static("Runs", classes="title", id="heading")
            yield Input(placeholder="type to filter", compact=True, id="filter")
            yield Static(id="count", classes="muted")
        yield DataTable[Content](cursor_type="row", zebra_stripes=False, id="table")
        with Vertical(id="empty"):
            yield Static(id="empty-text")
        yield MultiRunChart(CURVES, id="chart")
        yield KeyBar()

    async def poll(self) -> None:
        if self.is_visible:
            await self.list.refresh(lambda: self.is_visible)
            for monitor in self._monitors():
                while self.is_visible and monitor.read():
                    await asyncio.sleep(0)

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.start_polling()

    # -- the table -------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def update_view(self) -> None:
        words = self.query_one("#filter", Input).value.lower().split()
        keys = differing_keys([row.config for row in self.list.rows])
        texts = {row.run.path: differences(row, keys) for row in self.list.rows}
        self._visible = [
            row
            for row in self.list.rows
            if all(w in f"{row.run.name} {row.state} {texts[row.run.path]}".lower() for w in words)
        ]
        self._fill([(row, self._cells(row, texts[row.run.path])) for row in self._visible])
        active = sum(row.is_active for row in self.list.rows)
        self.query_one("#count", Static).update(
            f"{len(self._visible)} of {len(self.list.rows)}, {active} active "
        )
        self._show_empty(words)
        self.query_one(MultiRunChart).show_runs(self._monitors())

    def _cells(self, row: RunRow, differs: str) -> dict[str, Content]:
        last, step = row.summary.last, row.status.step
        total = f"/{count(row.status.total_steps)}" if row.status.total_steps else ""
        pin = self._color(row.run.path)
        cells = {
            "pin": Content.styled("━━━" if pin else "   ", pin or "$foreground"),
            "run": Content.styled(one_line(fork_mark(row.depth) + row.run.name, 28), "bold"),
            "state": state_badge(row.state),
            "step": Content(f"{count(step)}{total}"),
            "loss": Content(number(last.get("loss"))),
            "best val": Content(number(row.summary.best)),
            "tokens/s": Content(count(last.get("tokens_per_s"))),
            "age": Content.styled(age(row.age_s), "$foreground-muted"),
            "differs in": Content.styled(one_line(differs, 90), "$foreground-muted"),
        }
        return {name: cell for name, cell in cells.items() if self.size.width >= MIN_WIDTHS[name]}

    def _fill(self, rows: list[tuple[RunRow, dict[str, Content]]]) -> None:
        """Update the cells; columns and rows are rebuilt only if they changed."""
        table: DataTable[Content] = self.query_one(DataTable)
        widths = {
            name: max([len(name), *(cells[name].cell_length for _, cells in rows)])
            for name, least in MIN_WIDTHS.items()
            if self.size.width >= least
        }
        layout = (*widths.items(), *(row.run.path for row, _ in rows))
        if layout != self._layout:
            self._layout = layout
            selected = self._selected()
            table.clear(columns=True)
            for name, width in widths.items():
                table.add_column("" if name == "pin" else name, key=name, width=width)
            for row, cells in rows:
                table.add_row(*cells.values(), key=str(row.run.path))
            paths = [row.run.path for row, _ in rows]
            if selected and selected.run.path in paths:
                table.move_cursor(row=paths.index(selected.run.path))
            return
        for row, cells in rows:
            for name, cell in cells.items():
                if table.get_cell(str(row.run.path), name) != cell:
                    table.update_cell(str(row.run.path), name, cell)

    def _show_empty(self, words: list[str]) -> None:
        text = self.list.problem
        if not self._visible and not text:
            text = "No run matches; escape shows all." if words and self.list.rows else (
                f"No runs in {runs_folder()} yet.\n\nn starts one, and F2 offers the demo."
            )  # fmt: skip
        self.set_class(bool(text), "-empty")
        self.query_one("#empty-text", Static).update(sanitize(text))

    def _selected(self) -> RunRow | None:
        table: DataTable[Content] = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return next((row for row in self.list.rows if str(row.run.path) == key), None)

    # -- the chart -------------------------------------------------------------------------------

    def _monitors(self) -> list[RunMonitor]:
        if self.pinned:
            return list(self.pinned.values())
        selected = self._selected()
        if selected is None:
            self._preview_monitor = None
        elif self._preview_monitor is None or self._preview_monitor.run.path != selected.run.path:
            self._preview_monitor = RunMonitor(selected.run.path)
        return [self._preview_monitor] if self._preview_monitor else []

    def _color(self, path: Path) -> str:
        paths = list(self.pinned)
        return f"${PALETTE[paths.index(path) % len(PALETTE)]}" if path in paths else ""

    @on(DataTable.RowHighlighted)
    def _preview(self) -> None:
        if not self.pinned:
            self.start_polling()

    # -- actions ---------------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    def action_watch(self) -> None:
        if row := self._selected():
            kgpt_app(self).open_run(row.run.path)

    def action_pin(self) -> None:
        row = self._selected()
        if row is None:
            return
        if self.pinned.pop(row.run.path, None) is None:
            self.pinned[row.run.path] = RunMonitor(row.run.path)
        self.start_polling()

    def action_compare(self) -> None:
        paths = list(self.pinned) or [row.run.path for row in self._visible[:6]]
        if len(paths) < 2:
            self.notify("Pin two runs or more with space, then compare them.")
            return
        self.app.push_screen(CompareScreen(paths))

    def action_new(self) -> None:
        kgpt_app(self).open_train()

    def action_curve(self) -> None:
        self.query_one(MultiRunChart).cycle_metric()

    def action_smooth(self) -> None:
        self.query_one(MultiRunChart).cycle_smoothing()

    def action_log_scale(self) -> None:
        self.query_one(MultiRunChart).toggle_log_scale()

    def action_filter(self) -> None:
        self.query_one("#filter").focus()

    @on(Input.Submitted, "#filter")
    def _focus_table(self) -> None:
        self.query_one(DataTable).focus()

    def action_clear(self) -> None:
        self.query_one("#filter", Input).value = ""
        self.query_one(DataTable).focus()

    @work
    async def action_delete(self) -> None:
        row = self._selected()
        if row is None:
            return
        if row.is_active:
            self.notify("This run is active; stop it before deleting it.", severity="warning")
            return
        steps = len(row.run.checkpoint_steps())
        answer = await self.app.push_screen_wait(
            ChoiceDialog(
                f"Delete {row.run.name}?",
                f"This deletes {steps} checkpoints, metrics and samples:\n{row.run.path}",
                {"d": "Delete", "k": "Keep"},
                destructive="d",
            )
        )
        if answer == "d":
            self._delete(row.run)

    def _delete(self, run: Run) -> None:
        """Delete the directory of a run, holding its lock so that no trainer starts."""
        try:
            with os_errors_as_kgpt(f"delete {run.path}"):
                run.lock()
                shutil.rmtree(run.path)
        except KgptError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
        finally:
            run.unlock()
        self.pinned.pop(run.path, None)
        self.start_polling()
