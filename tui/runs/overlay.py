"""One figure of several runs, their curves over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kgpt_tui.runs.chart import ChartPanel, Line, next_smoothing
from kgpt_tui.runs.run_monitor import RunFeed
from kgpt_tui.shared.display import one_line


class Overlay(ChartPanel):
    """A chart of several runs that shows one of their figures at a time.

    Args:
        curves: the figures, by their names in a run's history: what each is called on the screen.
            Those of validation are drawn as dots.
    """

    def __init__(self, curves: Mapping[str, str], id: str | None = None):
        first = next(iter(curves))
        super().__init__(curves[first], id=id)
        self._curves, self._curve = dict(curves), first
        self._feeds: list[RunFeed] = []
        self._drawn: tuple = ()

    def show_runs(self, feeds: Sequence[RunFeed]) -> None:
        """Draw the runs of `feeds`, unless that is what was drawn last."""
        self._feeds = list(feeds)
        runs = ((feed.run.path, feed.changes["metrics"]) for feed in feeds)
        wanted = (self._curve, self.chart.smoothing, self.chart.log_scale, *runs)
        if wanted == self._drawn:
            return
        self._drawn = wanted
        self.rename(self._curves[self._curve])
        dots = self._curve.startswith("val_")
        self.draw(
            [
                Line(one_line(feed.name, 24), feed.history.curve(self._curve), n, dots)
                for n, feed in enumerate(feeds)
            ]
        )

    def step(self, by: int = 1) -> None:
        """Show the next figure."""
        names = list(self._curves)
        self._curve = names[(names.index(self._curve) + by) % len(names)]
        self.chart.action_reset_scales()
        self.show_runs(self._feeds)

    def smooth(self) -> None:
        """The next amount of smoothing."""
        self.chart.smoothing = next_smoothing(self.chart.smoothing)
        self.show_runs(self._feeds)

    def toggle_log(self) -> None:
        """Switch between a linear and a logarithmic scale."""
        self.chart.log_scale = not self.chart.log_scale
        self.chart.action_reset_scales()
        self.show_runs(self._feeds)
