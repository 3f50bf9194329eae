"""The home screen: four actions, the latest runs, and the models found on disk."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from kgpt.config import Config
from kgpt.errors import KgptError
from kgpt.formatting import age, count, number
from kgpt.runs import Run, all_runs, new_run
from kgpt_tui.models.discovery import FoundModel, read_data_set
from kgpt_tui.models.discovery import models as find_models
from kgpt_tui.runs.run_list import RunList, RunRow
from kgpt_tui.runs.run_state import state_badge
from kgpt_tui.shared import launch
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.dialogs import ChoiceDialog
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen
from kgpt_tui.train.data_preparation import DataPreparation, PreparationError

DEMO = "tinyworld"
DEMO_RUN = re.compile(r"demo(-\d+)?")
MAX_LISTED = 30  # runs and models; the rest is on their own screens


@dataclass(frozen=True)
class Action:
    """One entry of the list of actions."""

    key: str
    name: str
    detail: str


ACTIONS = {
    "demo": Action("d", "Run the demo", "Trains a small chat model in minutes."),
    "train": Action("t", "Train on a file", "Your text, a preset, and a form."),
    "chat": Action("c", "Chat with a model", "Your runs, or a Llama or GPT-2 folder."),
    "runs": Action("w", "Watch the runs", "Charts, samples, logs; pause, compare."),
}


class HomeScreen(LiveScreen):
    """Actions, runs and models, each a list."""

    CSS_PATH = "home.tcss"
    HELP_TITLE = "Home"
    AUTO_FOCUS = "#actions"
    BINDINGS = [
        *(
            Binding(action.key, f"act('{name}')", action.name, id=f"home.{name}")
            for name, action in ACTIONS.items()
        ),
        Binding("right", "app.focus_next", "Next list", id="home.next", show=False),
        Binding("left", "app.focus_previous", "Previous list", id="home.before", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.list = RunList()
        self.models: list[FoundModel] = []
        self._polls = 0
        self._listed: dict[str, list[tuple[str, Content]]] = {}  # (key, line) by list
        self._preparation: DataPreparation | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            with Vertical(id="banner"):
                yield Static("kgpt", id="name")
                yield Static("train your own GPT, watch it learn, chat with it", id="motto")
            with Horizontal(id="columns"):
                with Vertical(id="left"):
                    yield Static("What would you like to do?", classes="heading")
                    yield OptionList(
                        *(Option(_action_line(action), name) for name, action in ACTIONS.items()),
                        id="actions",
                        markup=False,
                    )
                    yield Static(id="progress", markup=False)
                with Vertical(id="right"):
                    yield Static("Runs", classes="heading", id="runs-heading")
                    yield OptionList(id="runs", markup=False)
                    yield Static("None yet. The demo starts one.", id="no-runs", classes="empty")
                    yield Static("Models", classes="heading", id="models-heading")
                    yield OptionList(id="models", markup=False)
                    yield Static(
                        "None found below this folder. A run with a checkpoint is one.",
                        id="no-models",
                        classes="empty",
                    )
        yield KeyBar()

    async def poll(self) -> None:
        if not self.is_visible:
            return
        await self.list.refresh(lambda: self.is_visible)
        if self._polls % 5 == 0:
            self.models = _find_models()
        self._polls += 1

    def update_view(self) -> None:
        rows, models = self.list.rows[:MAX_LISTED], self.models[:MAX_LISTED]
        width = max(24, self.query_one("#right").size.width - 4)
        self._fill("runs", [(str(row.run.path), _run_line(row, width)) for row in rows])
        self._fill("models", [(found.source, _model_line(found, width)) for found in models])
        active = sum(row.is_active for row in self.list.rows)
        heading = f"Runs, {active} active" if active else "Runs"
        self.query_one("#runs-heading", Static).update(heading)

    def on_resize(self) -> None:
        """Small terminals leave out the details of the actions."""
        brief = self.app.size.width < 46 or self.app.size.height < 18
        actions = self.query_one("#actions", OptionList)
        for name, action in ACTIONS.items():
            actions.replace_option_prompt(name, _action_line(action, brief))
        self.call_after_refresh(self.query_one("#page").scroll_home, animate=False)

    def _fill(self, name: str, lines: list[tuple[str, Content]]) -> None:
        """Fill the list called `name` with (key, line) pairs, keeping the highlighted index."""
        self.set_class(not lines, f"-no-{name}")
        if self._listed.get(name) == lines:
            return
        options = self.query_one(f"#{name}", OptionList)
        same_keys = [key for key, _ in self._listed.get(name, [])] == [key for key, _ in lines]
        self._listed[name] = lines
        if same_keys:
            for key, line in lines:
                options.replace_option_prompt(key, line)
            return
        index = options.highlighted
        options.clear_options()
        options.add_options([Option(line, key) for key, line in lines])
        options.highlighted = min(index, len(lines) - 1) if index is not None and lines else None

    # -- actions ---------------------------------------------------------------------------------

    @on(OptionList.OptionSelected, "#actions")
    def _action_selected(self, event: OptionList.OptionSelected) -> None:
        self.action_act(event.option_id or "")

    @on(OptionList.OptionSelected, "#runs")
    def _run_selected(self, event: OptionList.OptionSelected) -> None:
        kgpt_app(self).open_run(Path(event.option_id or ""))

    @on(OptionList.OptionSelected, "#models")
    def _model_selected(self, event: OptionList.OptionSelected) -> None:
        kgpt_app(self).open_chat(event.option_id)

    def action_act(self, name: str) -> None:
        if name == "demo":
            self._ask_about_demo()
        elif name == "chat":
            kgpt_app(self).open_chat()
        elif name == "train":
            kgpt_app(self).open_train()
        else:
            self.app.switch_mode("runs")

    def _ask_about_demo(self) -> None:
        """Run the demo; where it was run before, ask whether to train it again."""
        if any(worker.group == "demo" and not worker.is_finished for worker in self.workers):
            return  # it is being started
        earlier = next((run for run in _runs() if DEMO_RUN.fullmatch(run.name)), None)
        if earlier is None:
            self.run_demo()
            return

        def decide(answer: str | None) -> None:
            if answer == "w":
                kgpt_app(self).open_run(earlier.path)
            elif answer == "t":
                self.run_demo()

        detail = f"The run {earlier.name} is there already."
        choices = {"w": "Watch it", "t": "Train another"}
        self.app.push_screen(ChoiceDialog("Run the demo?", detail, choices), decide)

    @work(group="demo", exit_on_error=False)
    async def run_demo(self) -> None:
        """Prepare the demo's data set if it is missing, then train on it as a new run."""
        try:
            config = Config.load(DEMO)
            folder = Path(config.data.dir or "data/tinyworld")
            if read_data_set(folder) is None:
                await self._prepare(folder)
            run = launch.start(config, free_name("demo"), launch.installed_backends()[0])
            self._show_progress("")
            if self.is_visible:  # who has gone elsewhere stays there
                kgpt_app(self).open_run(run.path)
            else:
                self.notify("The demo is training; F4 shows it.")
        except (KgptError, PreparationError, OSError) as error:
            self._show_progress(f"The demo could not start. {error}")

    async def _prepare(self, folder: Path) -> None:
        self._show_progress("Preparing the demo's data set …")
        command = [sys.executable, "-m", "kgpt", "data", "get", DEMO, "--out", str(folder)]
        self._preparation = DataPreparation(command)
        try:
            await self._preparation.wait(lambda p: self._show_progress(f"Demo data: {p}"))
        finally:
            self._preparation = None

    def _show_progress(self, text: str) -> None:
        progress = self.query_one("#progress", Static)
        progress.update(sanitize(text))
        progress.display = bool(text)

    def on_unmount(self) -> None:
        if self._preparation is not None:
            self._preparation.cancel()


def free_name(stem: str) -> str:
    """`stem`, or `stem-2`, `stem-3`, ... if there is a run of that name."""
    name, number = stem, 1
    while new_run(name).path.exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def _runs() -> list[Run]:
    try:
        return all_runs()
    except OSError:
        return []


def _find_models() -> list[FoundModel]:
    try:
        return find_models()
    except OSError:
        return []


def _action_line(action: Action, brief: bool = False) -> Content:
    name = Content.assemble(
        (f" {action.key} ", "bold $accent"), (f" {action.name}", "bold $foreground")
    )
    return name if brief else name + Content.styled(f"\n    {action.detail}", "$foreground-muted")


def _run_line(row: RunRow, width: int) -> Content:
    """Name and state on the left, loss and progress on the right."""
    state = state_badge(row.state)
    step, total = row.status.step, row.status.total_steps
    done = f"{100 * step / total:.0f}%" if total and row.is_active else f"step {count(step)}"
    details = f"loss {number(row.summary.last.get('loss'), 3)}  {done}"
    if not row.is_active and width >= 56:
        details += f"  {age(row.age_s)}"
    name = one_line(row.run.name, max(8, width - len(details) - state.cell_length - 4))
    gap = width - len(name) - state.cell_length - len(details) - 2
    if gap < 1:
        return Content.assemble((name, "bold"), "  ") + state
    return Content.assemble((name, "bold"), "  ", state, " " * gap, (details, "$foreground-muted"))


def _model_line(found: FoundModel, width: int) -> Content:
    name = one_line(found.source, max(12, width // 2))
    detail = one_line(found.detail, max(8, width - len(name) - 2))
    gap = max(2, width - len(name) - len(detail))
    return Content.assemble((name, "bold"), " " * gap, (detail, "$foreground-muted"))
