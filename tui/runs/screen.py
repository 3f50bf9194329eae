"""All runs in a table; those that are pinned share a chart."""

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
from kgpt.runs import Run, runs_folder
from kgpt_tui.runs.chart import PALETTE
from kgpt_tui.runs.compare import CompareScreen
from kgpt_tui.runs.overlay import Overlay
from kgpt_tui.runs.run_header import badge
from kgpt_tui.runs.run_list import Row, RunList, differences, differing_keys
from kgpt_tui.runs.run_monitor import RunFeed
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.shared.formatting import age, count, figure
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen

COLUMNS = {"pin": 0, "run": 0, "state": 0, "step": 40, "loss": 40, "best val": 60,
           "tokens/s": 90, "age": 70, "differs in": 80}  # fmt: skip
CURVES = {"loss": "loss", "val_loss": "validation loss"}


class RunsScreen(LiveScreen):
    """Find, pin, compare, watch and delete runs."""

    CSS_PATH: ClassVar = ["curves.tcss", "runs.tcss"]
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
        self.pinned: dict[Path, RunFeed] = {}
        self._passing: RunFeed | None = None  # of the run under the cursor, when none is pinned
        self._visible: list[Row] = []
        self._layout: tuple = ()

    def compose(self) -> ComposeResult:
        with Horizontal(id="bar"):
            yield Static("Runs", classes="title", id="heading")
            yield Input(placeholder="type to filter", compact=True, id="filter")
            yield Static(id="count", classes="muted")
        yield DataTable(cursor_type="row", zebra_stripes=False, id="table")
        with Vertical(id="empty"):
            yield Static(id="empty-text")
        yield Overlay(CURVES, id="chart")
        yield KeyBar()

    async def look(self) -> None:
        if self.is_seen:
            await self.list.refresh(lambda: self.is_seen)
            for feed in self._feeds():
                while self.is_seen and feed.read():
                    await asyncio.sleep(0)

    def on_screen_resume(self) -> None:
        if self.is_mounted:
            self.follow()

    # -- the table -------------------------------------------------------------------------------

    @on(Input.Changed, "#filter")
    def draw(self) -> None:
        words = self.query_one("#filter", Input).value.lower().split()
        keys = differing_keys([row.config for row in self.list.rows])
        texts = {row.run.path: differences(row, keys) for row in self.list.rows}
        self._visible = [
            row
            for row in self.list.rows
            if all(
                w in f"{row.run.name} {row.condition} {texts[row.run.path]}".lower() for w in words
            )
        ]
        self._fill([(row, self._cells(row, texts[row.run.path])) for row in self._visible])
        alive = sum(row.is_alive for row in self.list.rows)
        self.query_one("#count", Static).update(
            f"{len(self._visible)} of {len(self.list.rows)}, {alive} alive "
        )
        self._show_empty(words)
        self.query_one(Overlay).show_runs(self._feeds())

    def _cells(self, row: Row, differs: str) -> dict[str, Content]:
        last, step = row.glance.last, row.status.step
        total = f"/{count(row.status.total_steps)}" if row.status.total_steps else ""
        pin = self._colour(row.run.path)
        cells = {
            "pin": Content.styled("━━━" if pin else "   ", pin or "$foreground"),
            "run": Content.styled(one_line(row.run.name, 28), "bold"),
            "state": badge(row.condition),
            "step": Content(f"{count(step)}{total}"),
            "loss": Content(figure(last.get("loss"))),
            "best val": Content(figure(row.glance.best)),
            "tokens/s": Content(count(last.get("tokens_per_s"))),
            "age": Content.styled(age(row.age_s), "$foreground-muted"),
            "differs in": Content.styled(one_line(differs, 90), "$foreground-muted"),
        }
        return {name: cell for name, cell in cells.items() if self.size.width >= COLUMNS[name]}

    def _fill(self, rows: list[tuple[Row, dict[str, Content]]]) -> None:
        """Write the cells; rows and columns are made anew only where they changed."""
        table = self.query_one(DataTable)
        widths = {
            name: max([len(name), *(cells[name].cell_length for _, cells in rows)])
            for name, least in COLUMNS.items()
            if self.size.width >= least
        }
        layout = (*widths.items(), *(row.run.path for row, _ in rows))
        if layout != self._layout:
            self._layout = layout
            chosen = self._chosen()
            table.clear(columns=True)
            for name, width in widths.items():
                table.add_column("" if name == "pin" else name, key=name, width=width)
            for row, cells in rows:
                table.add_row(*cells.values(), key=str(row.run.path))
            paths = [row.run.path for row, _ in rows]
            if chosen and chosen.run.path in paths:
                table.move_cursor(row=paths.index(chosen.run.path))
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

    def _chosen(self) -> Row | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return next((row for row in self.list.rows if str(row.run.path) == key), None)

    # -- the chart -------------------------------------------------------------------------------

    def _feeds(self) -> list[RunFeed]:
        if self.pinned:
            return list(self.pinned.values())
        chosen = self._chosen()
        if chosen is None:
            self._passing = None
        elif self._passing is None or self._passing.run.path != chosen.run.path:
            self._passing = RunFeed(chosen.run.path)
        return [self._passing] if self._passing else []

    def _colour(self, path: Path) -> str:
        paths = list(self.pinned)
        return f"${PALETTE[paths.index(path) % len(PALETTE)]}" if path in paths else ""

    @on(DataTable.RowHighlighted)
    def _preview(self) -> None:
        if not self.pinned:
            self.follow()

    # -- what the keys do ------------------------------------------------------------------------

    @on(DataTable.RowSelected)
    def action_watch(self) -> None:
        if row := self._chosen():
            self.app.open_run(row.run.path)  # type: ignore[attr-defined]

    def action_pin(self) -> None:
        row = self._chosen()
        if row is None:
            return
        if self.pinned.pop(row.run.path, None) is None:
            self.pinned[row.run.path] = RunFeed(row.run.path)
        self.follow()

    def action_compare(self) -> None:
        paths = list(self.pinned) or [row.run.path for row in self._visible[:6]]
        if len(paths) < 2:
            self.notify("Pin two runs or more with space, then compare them.")
            return
        self.app.push_screen(CompareScreen(paths))

    def action_new(self) -> None:
        self.app.open_train()  # type: ignore[attr-defined]

    def action_curve(self) -> None:
        self.query_one(Overlay).step()

    def action_smooth(self) -> None:
        self.query_one(Overlay).smooth()

    def action_log_scale(self) -> None:
        self.query_one(Overlay).toggle_log()

    def action_filter(self) -> None:
        self.query_one("#filter").focus()

    @on(Input.Submitted, "#filter")
    def _to_table(self) -> None:
        self.query_one(DataTable).focus()

    def action_clear(self) -> None:
        self.query_one("#filter", Input).value = ""
        self.query_one(DataTable).focus()

    @work
    async def action_delete(self) -> None:
        row = self._chosen()
        if row is None:
            return
        if row.is_alive:
            self.notify("This run is alive; stop it before deleting it.", severity="warning")
            return
        steps = len(row.run.checkpoint_steps())
        answer = await self.app.push_screen_wait(
            ChoiceDialog(
                f"Delete {row.run.name}?",
                f"{steps} checkpoints, metrics and samples go for good:\n{row.run.path}",
                {"d": "Delete", "k": "Keep"},
                grave="d",
            )
        )
        if answer == "d":
            self._delete(row.run)

    def _delete(self, run: Run) -> None:
        """Remove the folder of a run, while its lock keeps every trainer out."""
        try:
            with os_errors_as_kgpt(f"delete {run.path}"):
                run.lock()
                shutil.rmtree(run.path)
        except KgptError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
        finally:
            run.unlock()
        self.pinned.pop(run.path, None)
        self.follow()
