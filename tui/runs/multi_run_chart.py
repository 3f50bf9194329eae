"""One metric of several runs, their curves in one chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kgpt_tui.runs.chart import ChartLine, ChartPanel, next_smoothing
from kgpt_tui.runs.run_monitor import RunMonitor
from kgpt_tui.shared.display import one_line


class MultiRunChart(ChartPanel):
    """A chart of several runs that shows one metric at a time.

    Args:
        curves: the figures, by their names in a run's history: what each is called on the screen.
            Those of validation are drawn with dots.
    """

    def __init__(self, curves: Mapping[str, str], id: str | None = None):
        first = next(iter(curves))
        super().__init__(curves[first], id=id)
        self._curves, self._curve = dict(curves), first
        self._monitors: list[RunMonitor] = []
        self._drawn: tuple[object, ...] = ()  # what the chart shows

    def show_runs(self, monitors: Sequence[RunMonitor]) -> None:
        """Draw the runs of `monitors`, unless the chart shows them already."""
        self._monitors = list(monitors)
        runs = ((monitor.run.path, monitor.revisions["metrics"]) for monitor in monitors)
        wanted = (self._curve, self.chart.smoothing, self.chart.log_scale, *runs)
        if wanted == self._drawn:
            return
        self._drawn = wanted
        self.set_title(self._curves[self._curve])
        dots = self._curve.startswith("val_")
        self.show_lines(
            [
                ChartLine(one_line(monitor.name, 24), monitor.history.curve(self._curve), n, dots)
                for n, monitor in enumerate(monitors)
            ]
        )

    def cycle_metric(self, offset: int = 1) -> None:
        """Show the next metric."""
        names = list(self._curves)
        self._curve = names[(names.index(self._curve) + offset) % len(names)]
        self.chart.action_reset_scales()
        self.show_runs(self._monitors)

    def cycle_smoothing(self) -> None:
        """Take the next amount of smoothing."""
        self.chart.smoothing = next_smoothing(self.chart.smoothing)
        self.show_runs(self._monitors)

    def toggle_log_scale(self) -> None:
        """Switch between a linear and a logarithmic scale."""
        self.chart.log_scale = not self.chart.log_scale
        self.chart.action_reset_scales()
        self.show_runs(self._monitors)
