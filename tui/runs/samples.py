"""What the model wrote while it learned: the same prompt at several moments, side by side."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from kgpt_tui.runs.run_monitor import RunFeed, Sample
from kgpt_tui.shared.display import one_line, sanitize

COLUMN = 38  # columns of the screen that one sample wants
MOST = 6


def sample_content(sample: Sample) -> Content:
    """A prompt, dimmed, and what followed it."""
    return Content.assemble((sanitize(sample.prompt), "$foreground-muted"), sanitize(sample.text))


class Samples(Widget, can_focus=True):
    """Samples of a `RunFeed` in columns by step; new ones come in on the right."""

    HELP_TITLE = "Samples"
    BINDINGS = [
        Binding("left", "move(-1)", "Earlier", id="samples.left"),
        Binding("right", "move(1)", "Later", id="samples.right"),
        Binding("up", "scroll_text(-1)", "Up", id="samples.up", show=False),
        Binding("down", "scroll_text(1)", "Down", id="samples.down", show=False),
        Binding(
            "left_square_bracket", "prompt(-1)", "Prompt before", id="samples.before", show=False
        ),
        Binding("right_square_bracket", "prompt(1)", "Next prompt", id="samples.next"),
    ]

    def __init__(self, feed: RunFeed, id: str | None = None):
        super().__init__(id=id)
        self._feed = feed
        self._prompt: str | None = None
        self._back = 0  # samples between the right-most column and the latest

    def compose(self) -> ComposeResult:
        yield Static(id="samples-title")
        with Horizontal(id="columns"):
            for _ in range(MOST):
                with VerticalScroll(classes="sample", can_focus=False):
                    yield Static(classes="step")
                    yield Static(classes="text")
        yield Static(
            "Nothing written yet. s asks for a sample now; "
            "train.sample_every says how often one comes by itself.",
            classes="empty",
        )

    def on_resize(self, event: events.Resize) -> None:
        self.draw()

    @property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(sample.prompt for sample in self._feed.samples))

    def draw(self) -> None:
        """Show the samples of the chosen prompt up to the chosen moment."""
        prompts = self.prompts
        self.set_class(not prompts, "-empty")
        if not prompts:
            return
        prompt = self._prompt if self._prompt in prompts else prompts[0]
        found = [sample for sample in self._feed.samples if sample.prompt == prompt]
        room = max(1, min(MOST, self.size.width // COLUMN))
        self._back = max(0, min(self._back, len(found) - room))
        end = len(found) - self._back
        shown_now = found[max(0, end - room) : end]
        self._title(prompts, prompt, found, shown_now)
        for column, sample in zip(
            self.query(".sample"), shown_now + [None] * (MOST - len(shown_now)), strict=True
        ):
            column.display = sample is not None
            if sample is not None:
                column.query_one(".step", Static).update(f"step {sample.step:,}")
                column.query_one(".text", Static).update(sample_content(sample))

    def _title(
        self, prompts: list[str], prompt: str, found: list[Sample], visible: list[Sample]
    ) -> None:
        end = len(found) - self._back
        where = f"{end - len(visible) + 1}–{end}" if len(visible) > 1 else f"{end}"
        line = Content.assemble(
            (" prompt ", "$foreground-muted"),
            (one_line(prompt, 40) or "(empty)", "bold"),
            (f"  {prompts.index(prompt) + 1} of {len(prompts)}", "$foreground-muted"),
            (f"   samples {where} of {len(found)}", "$foreground-muted"),
        )
        self.query_one("#samples-title", Static).update(line)

    def choose(self, prompt: str) -> None:
        """Show the samples of `prompt` once there are some, the latest first."""
        self._prompt, self._back = prompt, 0
        self.draw()

    def action_move(self, by: int) -> None:
        self._back = max(0, self._back - by)
        self.draw()

    def action_prompt(self, by: int) -> None:
        prompts = self.prompts
        if prompts:
            at = prompts.index(self._prompt) if self._prompt in prompts else 0
            self.choose(prompts[(at + by) % len(prompts)])

    def action_scroll_text(self, lines: int) -> None:
        for column in self.query(".sample"):
            column.scroll_relative(y=lines, animate=False)
