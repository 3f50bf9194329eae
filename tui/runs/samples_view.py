"""Samples generated during training: one prompt at several steps, side by side."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kgpt_tui.runs.run_monitor import RunMonitor, Sample
from kgpt_tui.shared.display import one_line, sanitize

SAMPLE_WIDTH = 38  # terminal columns
MAX_COLUMNS = 6


def sample_content(sample: Sample) -> Content:
    """A prompt, dimmed, and its continuation."""
    return Content.assemble((sanitize(sample.prompt), "$foreground-muted"), sanitize(sample.text))


class SamplesView(Widget, can_focus=True):
    """Samples of a `RunMonitor` in columns by step, the latest on the right."""

    HELP_TITLE = "Samples"
    BINDINGS = [
        Binding("left", "move(-1)", "Earlier", id="samples.left"),
        Binding("right", "move(1)", "Later", id="samples.right"),
        Binding("up", "scroll_text(-1)", "Up", id="samples.up", show=False),
        Binding("down", "scroll_text(1)", "Down", id="samples.down", show=False),
        Binding(
            "left_square_bracket", "prompt(-1)", "Previous prompt", id="samples.before", show=False
        ),
        Binding("right_square_bracket", "prompt(1)", "Next prompt", id="samples.next"),
    ]

    def __init__(self, monitor: RunMonitor, id: str | None = None):
        super().__init__(id=id)
        self._monitor = monitor
        self._prompt: str | None = None
        self._newer = 0  # samples after the right-most column

    def compose(self) -> ComposeResult:
        yield Static(id="samples-title")
        with Horizontal(id="columns"):
            for _ in range(MAX_COLUMNS):
                with VerticalScroll(classes="sample", can_focus=False):
                    yield Static(classes="step")
                    yield Static(classes="text")
        yield Static(
            "No samples yet. s generates one now; "
            "train.sample_every sets how often the trainer does.",
            classes="empty",
        )

    def on_resize(self, event: events.Resize) -> None:
        self.update_view()

    @property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(sample.prompt for sample in self._monitor.samples))

    def update_view(self) -> None:
        """Show the samples of the selected prompt up to the selected step."""
        prompts = self.prompts
        self.set_class(not prompts, "-empty")
        if not prompts:
            return
        prompt = self._prompt if self._prompt in prompts else prompts[0]
        found = [sample for sample in self._monitor.samples if sample.prompt == prompt]
        count = max(1, min(MAX_COLUMNS, self.size.width // SAMPLE_WIDTH))
        self._newer = max(0, min(self._newer, len(found) - count))
        end = len(found) - self._newer
        visible = found[max(0, end - count) : end]
        self._update_title(prompts, prompt, found, visible)
        columns = list(self.query(".sample"))
        for column in columns[len(visible) :]:
            column.display = False
        for column, sample in zip(columns, visible, strict=False):
            column.display = True
            column.query_one(".step", Static).update(f"step {sample.step:,}")
            column.query_one(".text", Static).update(sample_content(sample))

    def _update_title(
        self, prompts: list[str], prompt: str, found: list[Sample], visible: list[Sample]
    ) -> None:
        end = len(found) - self._newer
        span = f"{end - len(visible) + 1}–{end}" if len(visible) > 1 else f"{end}"
        line = Content.assemble(
            (" prompt ", "$foreground-muted"),
            (one_line(prompt, 40) or "(empty)", "bold"),
            (f"  {prompts.index(prompt) + 1} of {len(prompts)}", "$foreground-muted"),
            (f"   samples {span} of {len(found)}", "$foreground-muted"),
        )
        self.query_one("#samples-title", Static).update(line)

    def select(self, prompt: str) -> None:
        """Show the latest samples of `prompt`, as soon as there are some."""
        self._prompt, self._newer = prompt, 0
        self.update_view()

    def action_move(self, offset: int) -> None:
        self._newer = max(0, self._newer - offset)
        self.update_view()

    def action_prompt(self, offset: int) -> None:
        prompts = self.prompts
        if prompts:
            index = prompts.index(self._prompt) if self._prompt in prompts else 0
            self.select(prompts[(index + offset) % len(prompts)])

    def action_scroll_text(self, lines: int) -> None:
        for column in self.query(".sample"):
            column.scroll_relative(y=lines, animate=False)
