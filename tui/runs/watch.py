"""Watching one run, wherever it was started: charts, samples, log, settings, and its controls."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from kgpt_tui.runs.run_header import RunHeader
from kgpt_tui.runs.run_log import RunLog
from kgpt_tui.runs.run_monitor import LIVELY, RunFeed
from kgpt_tui.runs.run_settings import RunSettings
from kgpt_tui.runs.samples import Samples, sample_content
from kgpt_tui.shared.dialogs import ChoiceDialog, DismissOnceMixin, InputDialog
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.key_bar import KeyBar
from kgpt_tui.shared.live_screen import LiveScreen
from kgpt_tui.shared.tabs import Strip
from kgpt_tui.train import launch

PATIENCE_S = 60.0  # how long a command is shown as waited for
VIEWS = ("charts", "samples", "log", "settings")


class WatchScreen(DismissOnceMixin, LiveScreen):
    """One run as it goes."""

    CSS_PATH: ClassVar = ["curves.tcss", "watch.tcss"]
    HELP_TITLE = "Watching a run"
    PERIOD_S = 0.5
    BINDINGS = [
        Binding("p", "pause", "Pause", id="watch.pause"),
        Binding("p", "go_on", "Go on", id="watch.go_on"),
        Binding("g", "resume", "Resume", id="watch.resume"),
        Binding("g", "train_longer", "Train longer", id="watch.longer"),
        Binding("s", "sample", "Sample", id="watch.sample"),
        Binding("c", "checkpoint", "Save", id="watch.checkpoint", tooltip="Checkpoint now"),
        Binding("x", "stop", "Stop", id="watch.stop"),
        Binding("t", "chat", "Chat", id="watch.chat", tooltip="Chat with the latest checkpoint"),
        Binding("m", "chart(1)", "Next chart", id="watch.chart"),
        Binding("M", "chart(-1)", "Chart before", id="watch.chart_before", show=False),
        Binding("o", "smooth", "Smooth", id="watch.smooth"),
        Binding("l", "log_scale", "Log scale", id="watch.log_scale"),
        Binding("tab", "view_next", "Next view", id="watch.next_view", show=False),
        *(
            Binding(str(n + 1), f"view({n})", f"See {name}", id=f"watch.{name}", show=False)
            for n, name in enumerate(VIEWS)
        ),
        Binding("escape", "leave", "Runs", id="watch.leave"),
    ]

    def __init__(self, path: Path):
        super().__init__()
        self.feed = RunFeed(path)
        self._views = Strip(*VIEWS, id="views")
        self._drawn: dict[str, int] = {}
        self._asked: tuple[str, Callable[[], bool], float] | None = None

    def compose(self) -> ComposeResult:
        yield RunHeader(self.feed, id="header")
        yield Static(id="banner", markup=False)
        yield self._views
        with Horizontal(id="body"):
            with ContentSwitcher(initial="charts", id="switcher"):
                yield ChartBoard(self.feed, id="charts")
                yield Samples(self.feed, id="samples")
                yield RunLog(self.feed, id="log")
                yield RunSettings(self.feed.run, id="settings")
            with Vertical(id="side"):
                yield Static("latest sample", classes="side-title")
                with VerticalScroll(id="side-sample", can_focus=False):
                    yield Static("nothing written yet", id="side-text")
                yield Static("log", classes="side-title")
                yield Static(id="side-log", markup=False)
        yield KeyBar()

    async def look(self) -> None:
        await self.feed.catch_up()

    # -- drawing -------------------------------------------------------------------------------

    def draw(self) -> None:
        self.query_one(RunHeader).show(self._note())
        if self._news("status"):
            self._banner()
            self._empty_states()
            self.refresh_bindings()
        if self._view == "charts" and self._news("metrics"):
            self.query_one(ChartBoard).draw()
        if self._news("samples"):
            self.query_one(Samples).draw()
            if self.feed.samples:
                latest = sample_content(self.feed.samples[-1])
                self.query_one("#side-text", Static).update(latest)
        if self._news("log"):
            self.query_one(RunLog).draw()
            self._side_log()

    def on_screen_resume(self) -> None:
        self._drawn.clear()
        self.call_after_refresh(self.draw_if_seen)

    def _news(self, what: str) -> bool:
        """True if something of this kind came since it was drawn last."""
        changed = self._drawn.get(what) != self.feed.changes[what]
        self._drawn[what] = self.feed.changes[what]
        return changed

    def _banner(self) -> None:
        banner = self.query_one("#banner", Static)
        feed = self.feed
        text = {
            "dead": f"The trainer is gone. {feed.error()}",
            "failed": f"Training failed. {feed.error()}",
            "gone": "The folder of this run was deleted; what was read of it is still shown.",
        }.get(feed.condition, "")
        if feed.condition in ("dead", "failed"):
            steps = feed.run.checkpoint_steps()
            from_step = f"step {steps[-1]:,}" if steps else "the beginning"
            text = f"{text.rstrip('.')}. Press g to resume from {from_step}."
        banner.update(sanitize(text))
        banner.display = bool(text)

    def _empty_states(self) -> None:
        waiting = {
            "starting": "Starting: the libraries are being loaded.",
            "compiling": "Compiling the first step. Figures come as soon as it has run.",
            "dead": "The trainer ended before its first figures; the log may say why (3).",
            "failed": "Training failed before its first figures; the log may say why (3).",
        }.get(self.feed.condition, "Waiting for the first figures.")
        for empty in self.query("ChartPanel > .empty"):
            empty.update(waiting)  # type: ignore[attr-defined]

    def _side_log(self) -> None:
        lines = list(self.feed.log)[-40:]
        room = max(1, self.query_one("#side-log").size.height)
        self.query_one("#side-log", Static).update("\n".join(map(sanitize, lines[-room:])))

    # -- commands to the trainer -----------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        condition, view = self.feed.condition, self._view
        allowed = {
            "pause": condition in LIVELY and condition != "paused",
            "go_on": condition == "paused",
            "resume": condition in ("dead", "failed", "stopped"),
            "train_longer": condition == "finished",
            "sample": condition in LIVELY,
            "checkpoint": condition in LIVELY,
            "stop": condition in LIVELY,
            "chart": view == "charts",
            "smooth": view == "charts",
            "log_scale": view == "charts",
        }
        return allowed.get(action, True)

    def action_pause(self) -> None:
        self._send("pause", "pausing after this step …", lambda: self.feed.condition == "paused")

    def action_go_on(self) -> None:
        self._send("resume", "going on …", lambda: self.feed.condition != "paused")

    def action_checkpoint(self) -> None:
        before = self.feed.run.checkpoint_steps()
        self._send(
            "checkpoint",
            "saving a checkpoint …",
            lambda: self.feed.run.checkpoint_steps() != before,
        )

    @work
    async def action_stop(self) -> None:
        answer = await self.app.push_screen_wait(
            ChoiceDialog(
                f"Stop {self.feed.name}?",
                "It saves a checkpoint first, and can be resumed later.",
                {"y": "Stop it", "n": "Let it train"},
            )
        )
        if answer == "y":
            self._send("stop", "stopping after this step …", lambda: self.feed.has_ended)

    @work
    async def action_sample(self) -> None:
        prompts = self.query_one(Samples).prompts
        prompt = await self.app.push_screen_wait(
            InputDialog(
                "Sample now",
                "What should the text begin with? Leave it empty for the run's own prompts.",
                prompts[-1] if prompts and prompts[-1].isprintable() else "",
            )
        )
        if prompt is None:
            return
        before = self.feed.changes["samples"]
        details = {"prompt": prompt} if prompt else {}
        asked = lambda: self.feed.changes["samples"] != before  # noqa: E731
        if self._send("sample", "writing a sample …", asked, **details):
            self._views.chosen = VIEWS.index("samples")
            if prompt:
                self.query_one(Samples).choose(prompt)

    def _send(self, command: Command, note: str, done: Callable[[], bool], **details: str) -> bool:
        try:
            self.feed.run.send(command, **details)
        except (KgptError, OSError) as error:
            self._complain(error)
            return False
        self._asked = (note, done, time.monotonic())
        self.query_one(RunHeader).show(note)
        return True

    def _note(self) -> str:
        """What was asked of the trainer and is not yet done."""
        if self._asked is None:
            return ""
        note, done, since = self._asked
        if done() or not self.feed.is_alive or time.monotonic() - since > PATIENCE_S:
            self._asked = None
            return ""
        return note

    # -- starting again, chatting, leaving -----------------------------------------------------

    def action_resume(self) -> None:
        self._start_again()

    @work
    async def action_train_longer(self) -> None:
        now = self.feed.status.total_steps
        text = await self.app.push_screen_wait(
            InputDialog(
                "Train longer",
                f"The run ended at step {now:,}. Up to which step should it go on?",
                str(2 * now),
                lambda text: "" if text.isdigit() and int(text) > now else f"A number above {now}.",
            )
        )
        if text:
            self._start_again(int(text))

    def _start_again(self, max_steps: int | None = None) -> None:
        try:
            launch.resume(self.feed.run, max_steps=max_steps)
        except (KgptError, OSError) as error:
            self._complain(error)
            return
        self.follow()

    def action_chat(self) -> None:
        run = self.feed.run
        if not run.checkpoint_steps():
            hint = "; c saves one now" if self.feed.is_alive else ""
            self.notify(f"There is no checkpoint to chat with yet{hint}.", severity="warning")
            return
        here = run.path.parent.resolve() == runs_folder().resolve()
        self.app.open_chat(run.name if here else str(run.path))  # type: ignore[attr-defined]

    def action_leave(self) -> None:
        self.dismiss(None)

    def _complain(self, error: Exception) -> None:
        self.notify(sanitize(str(error)), severity="error", markup=False)

    # -- views -----------------------------------------------------------------------------------

    @property
    def _view(self) -> str:
        return VIEWS[self._views.chosen]

    @on(Strip.Chosen)
    def _switch(self, event: Strip.Chosen) -> None:
        name = VIEWS[event.index]
        self.query_one(ContentSwitcher).current = name
        self.query_one("#side").set_class(name != "charts", "-away")
        self.call_after_refresh(self.draw_if_seen)
        target = self.query_one(f"#{name}")
        (target.query("Chart").first() if name == "charts" else target).focus()
        self.refresh_bindings()

    def action_view(self, index: int) -> None:
        self._views.chosen = index

    def action_view_next(self) -> None:
        self._views.chosen = (self._views.chosen + 1) % len(VIEWS)

    def action_chart(self, by: int) -> None:
        self.query_one(ChartBoard).step(by)

    def action_smooth(self) -> None:
        self.query_one(ChartBoard).smooth()

    def action_log_scale(self) -> None:
        self.query_one(ChartBoard).toggle_log()
