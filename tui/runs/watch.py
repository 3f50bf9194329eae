"""Watching one run, wherever it was started: charts, samples, log, configuration, commands."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import ContentSwitcher, Static

from kgpt.errors import KgptError
from kgpt.runs import Command, runs_folder
from kgpt_tui.runs.chart_board import ChartBoard
from kgpt_tui.runs.run_config import RunConfigView
from kgpt_tui.runs.run_header import RunHeader
from kgpt_tui.runs.run_log import RunLog
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.runs.samples_view import SamplesView, sample_content
from kgpt_tui.shared import launch
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.dialogs import ChoiceDialog, DismissOnceMixin, InputDialog
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen
from kgpt_tui.shared.tabs import Tabs

COMMAND_TIMEOUT_S = 60.0  # how long a command is shown as pending
TRAINER_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:]+ (.*)")  # of train.log, without its time
VIEWS = ("charts", "samples", "log", "config")


@dataclass(frozen=True)
class PendingCommand:
    """A command that was sent to the trainer."""

    note: str  # what the header shows meanwhile
    is_done: Callable[[], bool]
    sent_at: float


class WatchScreen(DismissOnceMixin, LiveScreen):
    """The views of one run, and the commands to its trainer."""

    CSS_PATH: ClassVar = ["charts.tcss", "watch.tcss"]
    HELP_TITLE = "Watching a run"
    POLL_S = 0.5
    BINDINGS = [
        Binding("p", "pause", "Pause", id="watch.pause"),
        Binding("p", "unpause", "Continue", id="watch.unpause"),
        Binding("g", "resume", "Resume", id="watch.resume"),
        Binding("g", "train_longer", "Train longer", id="watch.longer"),
        Binding("s", "sample", "Sample", id="watch.sample"),
        Binding("c", "checkpoint", "Save", id="watch.checkpoint", tooltip="Checkpoint now"),
        Binding("x", "stop", "Stop", id="watch.stop"),
        Binding("t", "chat", "Chat", id="watch.chat", tooltip="Chat with the latest checkpoint"),
        Binding("m", "chart(1)", "Next chart", id="watch.chart"),
        Binding("M", "chart(-1)", "Previous chart", id="watch.chart_before", show=False),
        Binding("o", "smooth", "Smooth", id="watch.smooth"),
        Binding("l", "log_scale", "Log scale", id="watch.log_scale"),
        Binding("tab", "view_next", "Next view", id="watch.next_view", show=False),
        *(
            Binding(str(n + 1), f"view({n})", f"Show {name}", id=f"watch.{name}", show=False)
            for n, name in enumerate(VIEWS)
        ),
        Binding("escape", "dismiss", "Runs", id="watch.back"),
    ]

    def __init__(self, path: Path):
        super().__init__()
        self.monitor = RunMonitor(path)
        self._tabs = Tabs(*VIEWS, id="views")
        self._drawn: dict[str, int] = {}  # the revision of each kind that is shown
        self._pending: PendingCommand | None = None

    def compose(self) -> ComposeResult:
        yield RunHeader(self.monitor, id="header")
        yield Static(id="banner", markup=False)
        yield self._tabs
        with Horizontal(id="body"):
            with ContentSwitcher(initial="charts", id="switcher"):
                yield ChartBoard(self.monitor, id="charts")
                yield SamplesView(self.monitor, id="samples")
                yield RunLog(self.monitor, id="log")
                yield RunConfigView(self.monitor.run, id="config")
            with Vertical(id="side"):
                yield Static("latest sample", classes="side-title")
                with VerticalScroll(id="side-sample", can_focus=False):
                    yield Static("no samples yet", id="side-text")
                yield Static("log", classes="side-title")
                yield Static(id="side-log", markup=False)
        yield KeyBar()

    async def poll(self) -> None:
        await self.monitor.read_all()

    # -- updating the view -----------------------------------------------------------------------

    def update_view(self) -> None:
        self.query_one(RunHeader).update_view(self._note())
        if self._is_new("status"):
            self._update_banner()
            self._update_placeholders()
            self.refresh_bindings()
        if self._view == "charts" and self._is_new("metrics"):
            self.query_one(ChartBoard).update_view()
        if self._is_new("samples"):
            self.query_one(SamplesView).update_view()
            if self.monitor.samples:
                latest = sample_content(self.monitor.samples[-1])
                self.query_one("#side-text", Static).update(latest)
        if self._is_new("log"):
            self.query_one(RunLog).update_view()
            self._update_side_log()

    def on_screen_resume(self) -> None:
        self._drawn.clear()
        self.call_after_refresh(self.update_if_visible)

    def _is_new(self, kind: str) -> bool:
        """True once for each revision of the data of this kind."""
        changed = self._drawn.get(kind) != self.monitor.revisions[kind]
        self._drawn[kind] = self.monitor.revisions[kind]
        return changed

    def _update_banner(self) -> None:
        banner = self.query_one("#banner", Static)
        monitor = self.monitor
        text = {
            "dead": f"The trainer is gone. {monitor.error()}",
            "failed": f"Training failed. {monitor.error()}",
            "gone": "The folder of this run was deleted; the data read before is still shown.",
        }.get(monitor.state, "")
        if monitor.state in ("finished", "stopped") and (problem := monitor.error()):
            text = f"It could not be resumed. {problem}"
        if monitor.state in ("dead", "failed"):
            steps = monitor.run.checkpoint_steps()
            from_step = f"step {steps[-1]:,}" if steps else "the beginning"
            text = f"{text.rstrip('.')}. Press g to resume from {from_step}."
        banner.update(sanitize(text))
        banner.display = bool(text)

    def _update_placeholders(self) -> None:
        text = {
            "starting": "Starting: the libraries are being loaded.",
            "compiling": "Compiling the first step. Metrics follow as soon as it has run.",
            "dead": "The trainer ended before its first metrics; the log may say why (3).",
            "failed": "Training failed before its first metrics; the log may say why (3).",
        }.get(self.monitor.state, "Waiting for the first metrics.")
        for placeholder in self.query("ChartPanel > .empty").results(Static):
            placeholder.update(text)

    def _update_side_log(self) -> None:
        """The lines that the trainer wrote, the loss among them; the log has those of libraries."""
        lines = [found[1] for line in self.monitor.log if (found := TRAINER_LINE.match(line))]
        lines = lines or list(self.monitor.log)[-40:]
        side_log = self.query_one("#side-log", Static)
        height = max(1, side_log.size.height)
        side_log.update("\n".join(map(sanitize, lines[-height:])))

    # -- commands to the trainer -----------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        state, active, view = self.monitor.state, self.monitor.is_active, self._view
        allowed = {
            "pause": active and state != "paused",
            "unpause": state == "paused",
            "resume": state in ("dead", "failed", "stopped"),
            "train_longer": state == "finished",
            "sample": active,
            "checkpoint": active,
            "stop": active,
            "chart": view == "charts",
            "smooth": view == "charts",
            "log_scale": view == "charts",
        }
        return allowed.get(action, True)

    def action_pause(self) -> None:
        self._send("pause", "pausing after this step …", lambda: self.monitor.state == "paused")

    def action_unpause(self) -> None:
        self._send("resume", "continuing …", lambda: self.monitor.state != "paused")

    def action_checkpoint(self) -> None:
        before = self.monitor.run.checkpoint_steps()
        self._send(
            "checkpoint",
            "saving a checkpoint …",
            lambda: self.monitor.run.checkpoint_steps() != before,
        )

    @work
    async def action_stop(self) -> None:
        answer = await self.app.push_screen_wait(
            ChoiceDialog(
                f"Stop {self.monitor.name}?",
                "It saves a checkpoint first, and can be resumed later.",
                {"y": "Stop it", "n": "Let it train"},
            )
        )
        if answer == "y":
            self._send("stop", "stopping after this step …", lambda: self.monitor.has_ended)

    @work
    async def action_sample(self) -> None:
        prompts = self.query_one(SamplesView).prompts
        prompt = await self.app.push_screen_wait(
            InputDialog(
                "Sample now",
                "The prompt to continue; empty uses the run's own prompts.",
                prompts[-1] if prompts and prompts[-1].isprintable() else "",
            )
        )
        if prompt is None:
            return
        before = self.monitor.revisions["samples"]
        details = {"prompt": prompt} if prompt else {}

        def has_sample() -> bool:
            return self.monitor.revisions["samples"] != before

        if self._send("sample", "generating a sample …", has_sample, **details):
            self._tabs.active = VIEWS.index("samples")
            if prompt:
                self.query_one(SamplesView).select(prompt)

    def _send(self, command: Command, note: str, done: Callable[[], bool], **details: str) -> bool:
        try:
            self.monitor.run.send(command, **details)
        except (KgptError, OSError) as error:
            self._show_error(error)
            return False
        self._pending = PendingCommand(note, done, time.monotonic())
        self.query_one(RunHeader).update_view(note)
        return True

    def _note(self) -> str:
        """The command that the trainer has yet to obey."""
        if self._pending is None:
            return ""
        expired = time.monotonic() - self._pending.sent_at > COMMAND_TIMEOUT_S
        if self._pending.is_done() or not self.monitor.is_active or expired:
            self._pending = None
            return ""
        return self._pending.note

    # -- resuming and chatting -------------------------------------------------------------------

    def action_resume(self) -> None:
        self._resume()

    @work
    async def action_train_longer(self) -> None:
        steps = self.monitor.status.total_steps
        text = await self.app.push_screen_wait(
            InputDialog(
                "Train longer",
                f"The run ended at step {steps:,}. Train it up to which step?",
                str(2 * steps),
                lambda text: (
                    "" if text.isdigit() and int(text) > steps else f"A number above {steps}."
                ),
            )
        )
        if text:
            self._resume(int(text))

    def _resume(self, max_steps: int | None = None) -> None:
        try:
            launch.resume(self.monitor.run, max_steps=max_steps)
        except (KgptError, OSError) as error:
            self._show_error(error)
            return
        self.start_polling()

    def action_chat(self) -> None:
        run = self.monitor.run
        if not run.checkpoint_steps():
            hint = "; c saves one now" if self.monitor.is_active else ""
            self.notify(f"There is no checkpoint to chat with yet{hint}.", severity="warning")
            return
        in_runs_folder = run.path.parent.resolve() == runs_folder().resolve()
        kgpt_app(self).open_chat(run.name if in_runs_folder else str(run.path))

    def _show_error(self, error: Exception) -> None:
        self.notify(sanitize(str(error)), severity="error", markup=False)

    # -- views -----------------------------------------------------------------------------------

    @property
    def _view(self) -> str:
        return VIEWS[self._tabs.active]

    @on(Tabs.Activated)
    def _switch(self, event: Tabs.Activated) -> None:
        name = VIEWS[event.index]
        self.query_one(ContentSwitcher).current = name
        self.query_one("#side").set_class(name != "charts", "-hidden")
        self.call_after_refresh(self.update_if_visible)
        target = self.query_one(f"#{name}")
        (target.query("Chart").first() if name == "charts" else target).focus()
        self.refresh_bindings()

    def action_view(self, index: int) -> None:
        self._tabs.active = index

    def action_view_next(self) -> None:
        self._tabs.active = (self._tabs.active + 1) % len(VIEWS)

    def action_chart(self, offset: int) -> None:
        self.query_one(ChartBoard).cycle(offset)

    def action_smooth(self) -> None:
        self.query_one(ChartBoard).cycle_smoothing()

    def action_log_scale(self) -> None:
        self.query_one(ChartBoard).toggle_log_scale()
