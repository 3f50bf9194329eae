"""Starting a run: a preset and data, a form with every option, what it will cost, and go."""

from __future__ import annotations

import time
from pathlib import Path

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Grid, Vertical, VerticalScroll
from textual.screen import Screen
from textual.widgets import Button, Input, Static

from kgpt.config import presets
from kgpt.errors import KgptError
from kgpt.runs import new_run
from kgpt_tui.models.discovery import FoundData, data_sets, read_data_set
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.option_rows import Choice, OptionRow
from kgpt_tui.train import launch
from kgpt_tui.train.cost import Speed, estimate
from kgpt_tui.train.cost_panel import CostPanel
from kgpt_tui.train.measurement import earlier_speeds, measure
from kgpt_tui.train.prepare import PrepareScreen
from kgpt_tui.train.run_form import RunForm, form_fields

DEFAULT = "tinyworld"
SECTIONS = {"model": "Model", "data": "Data", "train": "Training", "sampling": "Samples"}


class TrainScreen(Screen[None]):
    """The form that starts a run."""

    CSS_PATH = "train.tcss"
    HELP_TITLE = "Starting a run"
    AUTO_FOCUS = "#preset"
    BINDINGS = [
        Binding("ctrl+s", "start", "Start", id="train.start", priority=True),
        Binding("ctrl+n", "prepare", "New data set", id="train.prepare"),
        Binding("ctrl+t", "measure", "Measure time", id="train.measure"),
        Binding("ctrl+f", "search", "Search", id="train.search"),
        Binding("ctrl+r", "reset", "Reset field", id="train.reset"),
        Binding("ctrl+l", "reset_all", "Reset all", id="train.reset_all", show=False),
        Binding("down", "app.focus_next", "Next field", id="train.next", show=False),
        Binding("up", "app.focus_previous", "Field before", id="train.before", show=False),
        Binding("escape", "leave_search", "Home", id="train.leave", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.form = RunForm(DEFAULT)
        self.fields = form_fields()
        self.data: list[FoundData] = []
        self.speeds: list[Speed] = []
        self.backends = launch.installed_backends()
        self._named = False  # the user named the run, so that the preset no longer does
        self._suggested = _run_name(DEFAULT)

    def compose(self) -> ComposeResult:
        with Grid(id="top"):
            yield Static("preset", classes="name")
            yield Choice((*presets(), *_yaml_files()), DEFAULT, id="preset")
            yield Static("data", classes="name")
            yield Choice((), "", id="data")
            yield Static("run", classes="name")
            yield Input(self._suggested, compact=True, id="run")
            yield Static("backend", classes="name")
            yield Choice(tuple(self.backends), self.backends[0], id="backend")
            yield Static("search", classes="name")
            yield Input(placeholder="options, as in: rate", compact=True, id="search")
        with VerticalScroll(id="form", can_focus=False):
            for section, title in SECTIONS.items():
                yield Static(title, classes="section", id=f"section-{section}")
                for field in self.fields:
                    if field.section == section and field.key != "data.dir":
                        yield OptionRow(field, self.form.text(field.key))
        with Vertical(id="side"):
            yield CostPanel(id="cost")
            yield Static(id="help", markup=False)
            yield Static(id="problem", markup=False)
            yield Button("Start training  ^s", id="start", variant="primary", compact=True)
        yield KeyBar()

    def on_mount(self) -> None:
        self._look_around()

    def on_screen_resume(self) -> None:
        self._look_around()

    def _look_around(self) -> None:
        """Find the data sets and measured speeds that there are now."""
        self.data = data_sets()
        self.speeds = earlier_speeds() + [s for s in self.speeds if s.run == "these steps"]
        folders = dict.fromkeys([*(str(data.folder) for data in self.data), self._folder])
        self.query_one("#data", Choice).offer(tuple(f for f in folders if f), self._folder)
        if not self._named:
            self._name_run()
        self._check()

    @property
    def _folder(self) -> str:
        return self.form.text("data.dir")

    @property
    def _backend(self) -> str:
        return self.query_one("#backend", Choice).value

    # -- what is edited ----------------------------------------------------------------------------

    @on(Choice.Changed, "#preset")
    def _other_preset(self, event: Choice.Changed) -> None:
        try:
            self.form.load(event.value)
        except KgptError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
            return
        self._show_values()
        self._look_around()

    def _show_values(self) -> None:
        for row in self.query(OptionRow):
            row.put(self.form.text(row.field.key))

    @on(Choice.Changed, "#data")
    def _other_data(self, event: Choice.Changed) -> None:
        self.form.edit("data.dir", event.value)
        self._check()

    @on(Choice.Changed, "#backend")
    def _other_backend(self) -> None:
        self._check()

    @on(OptionRow.Edited)
    def _edited(self, event: OptionRow.Edited) -> None:
        self.form.edit(event.field.key, event.text)
        self._check()

    @on(OptionRow.Entered)
    def _entered(self, event: OptionRow.Entered) -> None:
        usual = self.form.usual(event.field.key) or "not set"
        self.query_one("#help", Static).update(
            f"{event.field.key}\n{event.field.help}\nThe preset says {sanitize(usual)}."
        )

    @on(Input.Changed, "#run")
    def _renamed(self, event: Input.Changed) -> None:
        self._named = event.value != self._suggested
        self._check()

    @on(Input.Changed, "#search")
    def _searched(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        found = set()
        for row in self.query(OptionRow):
            row.display = row.field.matches(words)
            if row.display:
                found.add(row.field.section)
        for section in SECTIONS:
            self.query_one(f"#section-{section}").display = section in found

    @on(Input.Submitted, "#search")
    def _to_first(self) -> None:
        for row in self.query(OptionRow):
            if row.display:
                row.editor.focus()
                return

    # -- what is said about it ------------------------------------------------------------------

    def _check(self) -> None:
        """Validate everything, and show what is wrong or what it costs."""
        config, key, problem = self.form.check()
        for row in self.query(OptionRow):
            wrong = problem if row.field.key == key else ""
            row.mark(row.field.key in self.form.edits, wrong)
        panel = self.query_one(CostPanel)
        if config is None:
            panel.say("Mend the form to see what it costs.")
        else:
            data = read_data_set(Path(self._folder)) if self._folder else None
            try:
                vocabulary = data.vocab_size if data else None
                panel.show(estimate(config, vocabulary, self._backend, self.speeds), data)
            except KgptError as error:
                panel.say(str(error))
        problem = problem or self._obstacle()
        self.query_one("#problem", Static).update(sanitize(problem))
        self.query_one("#start", Button).disabled = bool(problem)

    def _obstacle(self) -> str:
        """Why a valid configuration cannot be started, if so."""
        if not self._folder:
            return "Choose a data set, or make one of your text with ^n."
        if read_data_set(Path(self._folder)) is None:
            return f"There is no data set in {self._folder} yet; make one with ^n."
        name = self.query_one("#run", Input).value.strip()
        try:
            if new_run(name).path.exists():
                return f"There is a run called {name} already; choose another name."
        except KgptError as error:
            return str(error)
        return ""

    def _name_run(self) -> None:
        field = self.query_one("#run", Input)
        self._suggested = _run_name(self.query_one("#preset", Choice).value)
        field.value = self._suggested

    # -- what the keys do ------------------------------------------------------------------------

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        config, _, problem = self.form.check()
        problem = problem or self._obstacle()
        if config is None or problem:
            self.notify(sanitize(problem), severity="error", markup=False)
            return
        name = self.query_one("#run", Input).value.strip()
        try:
            run = launch.start(config, name, self._backend)
        except (KgptError, OSError) as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
            return
        self._named = False
        self.app.open_run(run.path)  # type: ignore[attr-defined]

    @work
    async def action_prepare(self) -> None:
        folder = await self.app.push_screen_wait(PrepareScreen())
        if folder is not None:
            self.form.edit("data.dir", folder)
            self._look_around()

    @work(group="measure", exclusive=True, exit_on_error=False)
    async def action_measure(self) -> None:
        """Run a few steps, so that the time is known and not guessed."""
        config, _, problem = self.form.check()
        problem = problem or ("" if read_data_set(Path(self._folder)) else self._obstacle())
        if config is None or problem:
            self.notify(sanitize(problem), severity="error", markup=False)
            return
        panel = self.query_one(CostPanel)
        panel.measuring = True
        self._check()
        try:
            found = await measure(config, self._backend)
            speed = Speed("these steps", found.config, found.backend, found.tokens_per_s)
            # The configuration as it will run, so that it counts as the same.
            self.speeds = [s for s in self.speeds if s.run != "these steps"] + [speed]
        except (KgptError, OSError) as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
        finally:
            panel.measuring = False
            if self.is_mounted:
                self._check()

    def action_search(self) -> None:
        self.query_one("#search").focus()

    def action_reset(self) -> None:
        row = next((n for n in self.focused.ancestors if isinstance(n, OptionRow)), None) if (
            self.focused
        ) else None  # fmt: skip
        if row is not None:
            self.form.edit(row.field.key, self.form.usual(row.field.key))
            row.put(self.form.text(row.field.key))
            self._check()

    def action_reset_all(self) -> None:
        data = self._folder
        self.form.edits = {}
        self.form.edit("data.dir", data)
        self._show_values()
        self._check()

    def action_leave_search(self) -> None:
        search = self.query_one("#search", Input)
        if search.value:
            search.value = ""
            self.query_one("#preset").focus()
        else:
            self.app.switch_mode("home")


def _run_name(preset: str) -> str:
    """A name that is free: the preset's, or with a number after it."""
    stem = Path(preset).stem
    for number in range(1, 1000):
        name = stem if number == 1 else f"{stem}-{number}"
        if not new_run(name).path.exists():
            return name
    return f"{stem}-{int(time.time())}"


def _yaml_files() -> list[str]:
    """Configurations in the working directory."""
    try:
        return sorted(str(path) for path in Path().glob("*.y*ml") if not path.name.startswith("."))
    except OSError:
        return []
