"""The charts of one run: several at once where they fit, or one."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Grid
from textual.reactive import reactive

from kgpt_tui.runs.chart import ChartLine, ChartPanel, next_smoothing
from kgpt_tui.runs.run_monitor import RunMonitor

PANELS = {
    "loss": {"loss": "train", "val_loss": "validation"},
    "gradient norm": {"grad_norm": "gradient norm"},
    "learning rate": {"lr": "learning rate"},
    "tokens/s": {"tokens_per_s": "tokens/s"},
    "bits per byte": {"val_bits_per_byte": "bits per byte"},
    "MFU": {"mfu": "MFU"},
    "utilization": {"cpu_percent": "CPU %", "gpu_percent": "GPU %"},
}
GRID_PANELS = 4  # panels in the grid, the first of `PANELS`
GRID_MIN_SIZE = (84, 17)  # columns and lines the grid needs


class ChartBoard(Grid):
    """Charts of a `RunMonitor`; `selected` is "all" or the name of one panel."""

    selected: reactive[str] = reactive("all", init=False)

    def __init__(self, monitor: RunMonitor, id: str | None = None):
        super().__init__(id=id)
        self._monitor = monitor
        self._grid_fits = True

    def compose(self) -> ComposeResult:
        for number, name in enumerate(PANELS):
            yield ChartPanel(name, id=f"panel-{number}")

    def on_mount(self) -> None:
        self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        fits = event.size.width >= GRID_MIN_SIZE[0] and event.size.height >= GRID_MIN_SIZE[1]
        if fits != self._grid_fits:
            self._grid_fits = fits
            self._arrange()

    def watch_selected(self) -> None:
        self._arrange()

    @property
    def visible_names(self) -> list[str]:
        names = list(PANELS)
        if self.selected == "all":
            return names[:GRID_PANELS] if self._grid_fits else names[:1]
        return [self.selected]

    def cycle(self, offset: int = 1) -> None:
        """Select the next of: all (where they fit), then each panel that has points."""
        known = [
            n for n, names in PANELS.items() if any(c in self._monitor.history.names for c in names)
        ]
        choices = (["all"] if self._grid_fits else []) + (known or ["loss"])
        current = self.selected if self.selected in choices else choices[0]
        self.selected = choices[(choices.index(current) + offset) % len(choices)]

    def cycle_smoothing(self) -> None:
        """Take the next amount of smoothing, for every chart."""
        panels = list(self.query(ChartPanel))
        smoothing = next_smoothing(panels[0].chart.smoothing)
        for panel in panels:
            panel.chart.smoothing = smoothing
        self.update_view()

    def toggle_log_scale(self) -> None:
        """Switch the first three charts between a linear and a logarithmic scale."""
        panels = list(self.query(ChartPanel))
        log_scale = not panels[0].chart.log_scale
        for panel in panels[:3]:
            panel.chart.log_scale = log_scale
            panel.chart.action_reset_scales()
        self.update_view()

    def update_view(self) -> None:
        """Draw the visible charts."""
        for (name, curves), panel in zip(PANELS.items(), self.query(ChartPanel), strict=False):
            if name in self.visible_names:
                panel.show_lines(
                    [
                        ChartLine(label, self._monitor.history.curve(curve), color, dots=color > 0)
                        for color, (curve, label) in enumerate(curves.items())
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
        self.call_after_refresh(self.update_view)
