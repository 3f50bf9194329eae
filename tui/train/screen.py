"""The form that starts a run: preset, data set, every option, and the estimated cost."""

from __future__ import annotations

import time
from dataclasses import replace
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
from kgpt_tui.shared import launch
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.train.cost import Throughput, estimate_cost
from kgpt_tui.train.cost_panel import CostPanel
from kgpt_tui.train.measurement import measure_throughput, past_throughputs
from kgpt_tui.train.option_rows import UNSET, Choice, OptionRow
from kgpt_tui.train.prepare_dialog import PrepareDialog
from kgpt_tui.train.run_form import RunForm, form_fields

DEFAULT = "tinyworld"
MEASURED = "these steps"  # the name of a measurement made from the form
SECTIONS = {
    "model": "Model", "data": "Data", "train": "Training", "sampling": "Samples",
    "finetune": "Fine-tuning", "lora": "LoRA", "bottleneck": "Bottleneck adapters",
    "prefix": "Prefix tuning",
}  # fmt: skip


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
        Binding("up", "app.focus_previous", "Previous field", id="train.before", show=False),
        Binding("escape", "clear_search", "Home", id="train.home", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.form = RunForm(DEFAULT)
        self.fields = form_fields()
        self.data: list[FoundData] = []
        self.throughputs: list[Throughput] = []
        self.backends = launch.installed_backends()
        self._is_named = False  # the user named the run, so the preset no longer does
        self._suggested_name = _run_name(DEFAULT)

    def compose(self) -> ComposeResult:
        with Grid(id="top"):
            yield Static("preset", classes="name")
            yield Choice((*presets(), *_yaml_files()), DEFAULT, id="preset")
            yield Static("data", classes="name")
            yield Choice((), "", id="data")
            yield Static("run", classes="name")
            yield Input(self._suggested_name, compact=True, id="run")
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
        self._find_sources()

    def on_screen_resume(self) -> None:
        self._find_sources()

    def _find_sources(self) -> None:
        """Find the data sets and the throughputs of earlier runs."""
        self.data = data_sets()
        self.throughputs = past_throughputs() + [t for t in self.throughputs if t.run == MEASURED]
        folders = dict.fromkeys([*(str(data.folder) for data in self.data), self._folder])
        self.query_one("#data", Choice).set_choices(tuple(f for f in folders if f), self._folder)
        if not self._is_named:
            self._name_run()
        self._check()

    @property
    def _folder(self) -> str:
        return self.form.text("data.dir")

    @property
    def _backend(self) -> str:
        return self.query_one("#backend", Choice).value

    # -- editing ---------------------------------------------------------------------------------

    @on(Choice.Changed, "#preset")
    def _preset_changed(self, event: Choice.Changed) -> None:
        try:
            self.form.load(event.value)
        except KgptError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
            return
        self._show_values()
        self._find_sources()

    def _show_values(self) -> None:
        for row in self.query(OptionRow):
            row.set_text(self.form.text(row.field.key))

    @on(Choice.Changed, "#data")
    def _data_changed(self, event: Choice.Changed) -> None:
        self.form.edit("data.dir", event.value)
        self._check()

    @on(Choice.Changed, "#backend")
    def _backend_changed(self) -> None:
        self._check()

    @on(OptionRow.Edited)
    def _option_edited(self, event: OptionRow.Edited) -> None:
        self.form.edit(event.field.key, event.text)
        self._check()

    @on(OptionRow.Focused)
    def _option_focused(self, event: OptionRow.Focused) -> None:
        preset = self.form.preset_text(event.field.key) or UNSET
        self.query_one("#help", Static).update(
            f"{event.field.key}\n{event.field.help}\nThe preset has {sanitize(preset)}."
        )

    @on(Input.Changed, "#run")
    def _run_name_changed(self, event: Input.Changed) -> None:
        self._is_named = event.value != self._suggested_name
        self._check()

    @on(Input.Changed, "#search")
    def _search_changed(self, event: Input.Changed) -> None:
        words = event.value.lower().split()
        found = set()
        for row in self.query(OptionRow):
            row.display = row.field.matches(words)
            if row.display:
                found.add(row.field.section)
        for section in SECTIONS:
            self.query_one(f"#section-{section}").display = section in found

    @on(Input.Submitted, "#search")
    def _focus_first_match(self) -> None:
        for row in self.query(OptionRow):
            if row.display:
                row.editor.focus()
                return

    # -- validation and cost -----------------------------------------------------------------------

    def _check(self) -> None:
        """Validate the form, and show what is wrong or what the run costs."""
        config, key, problem = self.form.check()
        for row in self.query(OptionRow):
            wrong = problem if row.field.key == key else ""
            row.mark(row.field.key in self.form.edits, wrong)
        panel = self.query_one(CostPanel)
        if config is None:
            panel.show_message("The cost is shown once the form is valid.")
        else:
            data = read_data_set(Path(self._folder)) if self._folder else None
            try:
                vocabulary = data.vocab_size if data else None
                cost = estimate_cost(config, vocabulary, self._backend, self.throughputs)
                panel.show_cost(cost, data)
            except KgptError as error:
                panel.show_message(str(error))
        problem = problem or self._blocking_problem()
        self.query_one("#problem", Static).update(sanitize(problem))
        self.query_one("#start", Button).disabled = bool(problem)

    def _blocking_problem(self) -> str:
        """Why a run with a valid configuration cannot start; empty if it can."""
        if self.form.text("finetune.objective") and not self.form.text("finetune.model"):
            return "Name the model to fine-tune, in the field model of Fine-tuning."
        if not self._folder:
            return "Choose a data set, or prepare one from your text with ^n."
        if read_data_set(Path(self._folder)) is None:
            return f"There is no data set in {self._folder} yet; prepare one with ^n."
        name = self.query_one("#run", Input).value.strip()
        try:
            if new_run(name).is_taken:
                return f"There is a run called {name} already; choose another name."
        except KgptError as error:
            return str(error)
        return ""

    def _name_run(self) -> None:
        field = self.query_one("#run", Input)
        self._suggested_name = _run_name(self.query_one("#preset", Choice).value)
        field.value = self._suggested_name

    # -- actions ---------------------------------------------------------------------------------

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        config, _, problem = self.form.check()
        problem = problem or self._blocking_problem()
        if config is None or problem:
            self.notify(sanitize(problem), severity="error", markup=False)
            return
        name = self.query_one("#run", Input).value.strip()
        try:
            run = launch.start(config, name, self._backend)
        except (KgptError, OSError) as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
            return
        self._is_named = False
        kgpt_app(self).open_run(run.path)

    @work
    async def action_prepare(self) -> None:
        folder = await self.app.push_screen_wait(PrepareDialog())
        if folder is not None:
            self.form.edit("data.dir", folder)
            self._find_sources()

    @work(group="measure", exclusive=True, exit_on_error=False)
    async def action_measure(self) -> None:
        """Run a few steps to estimate the time from."""
        config, _, problem = self.form.check()
        problem = problem or ("" if read_data_set(Path(self._folder)) else self._blocking_problem())
        if config is None or problem:
            self.notify(sanitize(problem), severity="error", markup=False)
            return
        panel = self.query_one(CostPanel)
        panel.measuring = True
        self._check()
        try:
            found = await measure_throughput(config, self._backend)
            earlier = [t for t in self.throughputs if t.run != MEASURED]
            self.throughputs = [*earlier, replace(found, run=MEASURED)]
        except (KgptError, OSError) as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)
        finally:
            panel.measuring = False
            if self.is_mounted:
                self._check()

    def action_search(self) -> None:
        self.query_one("#search").focus()

    def action_reset(self) -> None:
        ancestors = self.focused.ancestors if self.focused else []
        row = next((node for node in ancestors if isinstance(node, OptionRow)), None)
        if row is not None:
            self.form.edit(row.field.key, self.form.preset_text(row.field.key))
            row.set_text(self.form.text(row.field.key))
            self._check()

    def action_reset_all(self) -> None:
        data = self._folder
        self.form.edits = {}
        self.form.edit("data.dir", data)
        self._show_values()
        self._check()

    def action_clear_search(self) -> None:
        search = self.query_one("#search", Input)
        if search.value:
            search.value = ""
            self.query_one("#preset").focus()
        else:
            self.app.switch_mode("home")


def _run_name(preset: str) -> str:
    """A free name: the preset's, with a number where that is taken."""
    stem = Path(preset).stem
    for number in range(1, 1000):
        name = stem if number == 1 else f"{stem}-{number}"
        if not new_run(name).path.exists():
            return name
    return f"{stem}-{int(time.time())}"


def _yaml_files() -> list[str]:
    """YAML files in the working directory."""
    try:
        return sorted(str(path) for path in Path().glob("*.y*ml") if not path.name.startswith("."))
    except OSError:
        return []
