"""The first screen: what can be done here, and what there is already."""

from __future__ import annotations

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
from kgpt.runs import new_run
from kgpt_tui.models.discovery import FoundModel, read_data_set
from kgpt_tui.models.discovery import models as find_models
from kgpt_tui.runs.run_header import badge
from kgpt_tui.runs.run_list import Row, RunList
from kgpt_tui.shared.display import one_line, sanitize
from kgpt_tui.shared.formatting import age, count, figure
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen
from kgpt_tui.train import launch
from kgpt_tui.train.preparation import Preparation, PreparationFailed

DEMO = "tinyworld"
SHOWN = 30  # runs and models listed here; the others are on their own screens


@dataclass(frozen=True)
class Action:
    """Something to do: its key, what it is called, and what it means."""

    key: str
    name: str
    detail: str


ACTIONS = {
    "demo": Action("d", "Run the demo", "A small model that answers, in minutes."),
    "train": Action("t", "Train on a file", "Your text, a preset, and a form."),
    "chat": Action("c", "Chat with a model", "Your runs, or a Llama or GPT-2 folder."),
    "runs": Action("w", "Watch the runs", "Charts, samples, logs; pause, compare."),
}


class HomeScreen(LiveScreen):
    """Four things to do, the runs and the models."""

    CSS_PATH = "home.tcss"
    HELP_TITLE = "Home"
    AUTO_FOCUS = "#actions"
    BINDINGS = [
        *(
            Binding(action.key, f"act('{name}')", action.name, id=f"home.{name}")
            for name, action in ACTIONS.items()
        ),
        Binding("right", "app.focus_next", "Next list", id="home.next", show=False),
        Binding("left", "app.focus_previous", "List before", id="home.before", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.list = RunList()
        self.models: list[FoundModel] = []
        self._looks = 0
        self._shown: dict[str, list] = {}
        self._preparing: Preparation | None = None

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="page"):
            with Vertical(id="banner"):
                yield Static("kgpt", id="name")
                yield Static("train your own GPT, watch it learn, chat with it", id="motto")
            with Horizontal(id="columns"):
                with Vertical(id="left"):
                    yield Static("What would you like to do?", classes="heading")
                    yield OptionList(
                        *(Option(_entry(action), name) for name, action in ACTIONS.items()),
                        id="actions",
                        markup=False,
                    )
                    yield Static(id="work", markup=False)
                with Vertical(id="right"):
                    yield Static("Runs", classes="heading", id="runs-heading")
                    yield OptionList(id="runs", markup=False)
                    yield Static("None yet. The demo starts one.", id="no-runs", classes="empty")
                    yield Static("Models", classes="heading", id="models-heading")
                    yield OptionList(id="models", markup=False)
                    yield Static(
                        "None found below this folder. Every checkpoint of a run is one.",
                        id="no-models",
                        classes="empty",
                    )
        yield KeyBar()

    async def look(self) -> None:
        if not self.is_seen:
            return
        await self.list.refresh(lambda: self.is_seen)
        if self._looks % 5 == 0:
            self.models = _models()
        self._looks += 1

    def draw(self) -> None:
        rows, models = self.list.rows[:SHOWN], self.models[:SHOWN]
        width = max(24, self.query_one("#right").size.width - 4)
        self._fill("runs", [(str(row.run.path), _run_line(row, width)) for row in rows])
        self._fill("models", [(found.source, _model_line(found, width)) for found in models])
        alive = sum(row.is_alive for row in self.list.rows)
        heading = f"Runs, {alive} alive" if alive else "Runs"
        self.query_one("#runs-heading", Static).update(heading)

    def on_resize(self) -> None:
        """Without room for it, what the entries mean is left to the footer and F1."""
        brief = self.app.size.width < 46 or self.app.size.height < 18
        actions = self.query_one("#actions", OptionList)
        for name, action in ACTIONS.items():
            actions.replace_option_prompt(name, _entry(action, brief))
        self.call_after_refresh(self.query_one("#page").scroll_home, animate=False)

    def _fill(self, name: str, lines: list[tuple[str, Content]]) -> None:
        """Put `lines` into the list called `name`, keeping what is highlighted."""
        self.set_class(not lines, f"-no-{name}")
        if self._shown.get(name) == lines:
            return
        options = self.query_one(f"#{name}", OptionList)
        same = [key for key, _ in self._shown.get(name, [])] == [key for key, _ in lines]
        self._shown[name] = lines
        if same:
            for key, line in lines:
                options.replace_option_prompt(key, line)
            return
        at = options.highlighted
        options.clear_options()
        options.add_options([Option(line, key) for key, line in lines])
        options.highlighted = min(at, len(lines) - 1) if at is not None and lines else None

    # -- what the entries do ---------------------------------------------------------------------

    @on(OptionList.OptionSelected, "#actions")
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        self.action_act(event.option_id or "")

    @on(OptionList.OptionSelected, "#runs")
    def _watch(self, event: OptionList.OptionSelected) -> None:
        self.app.open_run(Path(event.option_id or ""))  # type: ignore[attr-defined]

    @on(OptionList.OptionSelected, "#models")
    def _chat(self, event: OptionList.OptionSelected) -> None:
        self.app.open_chat(event.option_id)  # type: ignore[attr-defined]

    def action_act(self, name: str) -> None:
        if name == "demo":
            self.run_demo()
        elif name == "chat":
            self.app.open_chat()  # type: ignore[attr-defined]
        elif name == "train":
            self.app.open_train()  # type: ignore[attr-defined]
        else:
            self.app.switch_mode("runs")

    @work(group="demo", exclusive=True, exit_on_error=False)
    async def run_demo(self) -> None:
        """Write the demo's corpus if it is not there, then train on it as a run of its own."""
        try:
            config = Config.load(DEMO)
            folder = Path(config.data.dir or "data/tinyworld")
            if read_data_set(folder) is None:
                self._say("Writing the demo's little world …")
                command = [sys.executable, "-m", "kgpt", "data", "get", DEMO, "--out", str(folder)]
                self._preparing = Preparation(command)
                await self._preparing.finish(lambda p: self._say(f"Demo data: {p}"))
            run = launch.start(config, free_name("demo"), launch.installed_backends()[0])
            self._say("")
            self.app.open_run(run.path)  # type: ignore[attr-defined]
        except (KgptError, PreparationFailed, OSError) as error:
            self._say(f"The demo could not start. {error}")

    def _say(self, text: str) -> None:
        work_line = self.query_one("#work", Static)
        work_line.update(sanitize(text))
        work_line.display = bool(text)

    def on_unmount(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()


def free_name(stem: str) -> str:
    """`stem`, or `stem-2`, `stem-3`, ... if there is a run of that name."""
    name, number = stem, 1
    while new_run(name).path.exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def _models() -> list[FoundModel]:
    try:
        return find_models()
    except OSError:
        return []


def _entry(action: Action, brief: bool = False) -> Content:
    name = Content.assemble(
        (f" {action.key} ", "bold $accent"), (f" {action.name}", "bold $foreground")
    )
    return name if brief else name + Content.styled(f"\n    {action.detail}", "$foreground-muted")


def _run_line(row: Row, width: int) -> Content:
    """Name and state, then how far it is and its loss at the right."""
    state = badge(row.condition)
    step, total = row.status.step, row.status.total_steps
    done = f"{100 * step / total:.0f}%" if total and row.is_alive else f"step {count(step)}"
    facts = f"loss {figure(row.glance.last.get('loss'), 3)}  {done}"
    if not row.is_alive and width >= 56:
        facts += f"  {age(row.age_s)}"
    name = one_line(row.run.name, max(8, width - len(facts) - state.cell_length - 4))
    gap = width - len(name) - state.cell_length - len(facts) - 2
    if gap < 1:
        return Content.assemble((name, "bold"), "  ") + state
    return Content.assemble((name, "bold"), "  ", state, " " * gap, (facts, "$foreground-muted"))


def _model_line(found: FoundModel, width: int) -> Content:
    name = one_line(found.source, max(12, width // 2))
    detail = one_line(found.detail, max(8, width - len(name) - 2))
    gap = max(2, width - len(name) - len(detail))
    return Content.assemble((name, "bold"), " " * gap, (detail, "$foreground-muted"))
