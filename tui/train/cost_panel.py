"""The estimated cost of the run in the form: parameters, memory, FLOPs, time."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from kgpt.formatting import count, duration, size
from kgpt_tui.models.discovery import FoundData
from kgpt_tui.shared.display import sanitize
from kgpt_tui.train.cost import CostEstimate


class CostPanel(Static):
    """A `CostEstimate` in a few aligned lines."""

    measuring = False  # a measurement of the throughput is under way

    def show_message(self, text: str) -> None:
        self.update(Content.styled(sanitize(text), "$foreground-muted"))

    def show_cost(self, cost: CostEstimate, data: FoundData | None) -> None:
        time, basis = self._time(cost)
        rows = [
            ("parameters", count(cost.parameters), ""),
            ("memory", f"about {size(cost.memory)}", _parts(cost)),
            ("compute", f"{count(cost.flops)}FLOP", _epochs(cost, data)),
            ("time", time, basis),
        ]
        separator = "\n  " if self.size.width < 66 else "  "
        lines = []
        for name, value, detail in rows:
            line = Content.assemble((f"{name:<11}", "$foreground-muted"), (value, "bold"))
            if detail:
                line += Content.styled(f"{separator}{detail}", "$foreground-muted")
            lines.append(line)
        self.update(Content("\n").join(lines))

    def _time(self, cost: CostEstimate) -> tuple[str, str]:
        if self.measuring:
            return "measuring …", "a few steps are running"
        if cost.time_s is None:
            return "unknown until measured", "^t runs a few steps"
        return f"about {duration(cost.time_s)}", sanitize(cost.basis)


def _parts(cost: CostEstimate) -> str:
    weights = size(cost.weights + cost.gradients + cost.optimizer)
    return f"{weights} weights …, {size(cost.activations)} activations"


def _epochs(cost: CostEstimate, data: FoundData | None) -> str:
    if data is None or not data.tokens:
        return f"{count(cost.tokens)} tokens"
    return f"{count(cost.tokens)} tokens, {cost.tokens / data.tokens:.1f} epochs"
