"""The charts of one run: all of them where there is room, or one alone."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Grid
from textual.reactive import reactive

from kgpt_tui.runs.chart import ChartPanel, Line, next_smoothing
from kgpt_tui.runs.run_monitor import RunFeed

PANELS = {
    "loss": {"loss": "train", "val_loss": "validation"},
    "gradient norm": {"grad_norm": "gradient norm"},
    "learning rate": {"lr": "learning rate"},
    "tokens/s": {"tokens_per_s": "tokens/s"},
    "bits per byte": {"val_bits_per_byte": "bits per byte"},
    "share of peak": {"mfu": "share of peak"},
}
TOGETHER = 4  # so many are shown when all are
ROOM = (84, 17)  # columns and lines that all of them need


class ChartBoard(Grid):
    """Charts that follow a `RunFeed`; `shown` is "all" or the name of one panel."""

    shown: reactive[str] = reactive("all", init=False)

    def __init__(self, feed: RunFeed, id: str | None = None):
        super().__init__(id=id)
        self._feed = feed
        self._roomy = True

    def compose(self) -> ComposeResult:
        for number, name in enumerate(PANELS):
            yield ChartPanel(name, id=f"panel-{number}")

    def on_mount(self) -> None:
        self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        roomy = event.size.width >= ROOM[0] and event.size.height >= ROOM[1]
        if roomy != self._roomy:
            self._roomy = roomy
            self._arrange()

    def watch_shown(self) -> None:
        self._arrange()

    @property
    def visible_names(self) -> list[str]:
        names = list(PANELS)
        if self.shown == "all":
            return names[:TOGETHER] if self._roomy else names[:1]
        return [self.shown]

    def step(self, by: int = 1) -> None:
        """Show the next of: all (where there is room), then each panel that has points."""
        known = [
            n for n, names in PANELS.items() if any(c in self._feed.history.names for c in names)
        ]
        choices = (["all"] if self._roomy else []) + (known or ["loss"])
        now = self.shown if self.shown in choices else choices[0]
        self.shown = choices[(choices.index(now) + by) % len(choices)]

    def smooth(self) -> float:
        """The next amount of smoothing, for every chart."""
        panels = list(self.query(ChartPanel))
        chosen = next_smoothing(panels[0].chart.smoothing)
        for panel in panels:
            panel.chart.smoothing = chosen
        self.draw()
        return chosen

    def toggle_log(self) -> bool:
        """Switch the loss and the gradient norm between a linear and a logarithmic scale."""
        panels = list(self.query(ChartPanel))
        chosen = not panels[0].chart.log_scale
        for panel in panels[:3]:
            panel.chart.log_scale = chosen
            panel.chart.action_reset_scales()
        self.draw()
        return chosen

    def draw(self) -> None:
        """Draw the charts that are seen."""
        for (name, curves), panel in zip(PANELS.items(), self.query(ChartPanel), strict=False):
            if name in self.visible_names:
                panel.draw(
                    [
                        Line(label, self._feed.history.curve(curve), colour, dots=colour > 0)
                        for colour, (curve, label) in enumerate(curves.items())
                    ]
                )

    def _arrange(self) -> None:
        visible = self.visible_names
        for name, panel in zip(PANELS, self.query(ChartPanel), strict=False):
            panel.display = name in visible
        self.set_class(len(visible) == 1, "-alone")
        focused = self.screen.focused
        if focused is None or not all(node.display for node in focused.ancestors_with_self):
            first = next((panel for panel in self.query(ChartPanel) if panel.display), None)
            if first is not None:
                first.chart.focus()
        self.call_after_refresh(self.draw)
