"""What the run being set up will take: parameters, memory, operations, time."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from kgpt_tui.models.discovery import FoundData
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.formatting import count, duration, size
from kgpt_tui.train.cost import Cost


class CostPanel(Static):
    """A `Cost` in a few aligned lines."""

    measuring = False

    def say(self, text: str) -> None:
        self.update(Content.styled(sanitize(text), "$foreground-muted"))

    def show(self, cost: Cost, data: FoundData | None) -> None:
        time, basis = self._time(cost)
        rows = [
            ("parameters", count(cost.parameters), ""),
            ("memory", f"about {size(cost.memory)}", _parts(cost)),
            ("operations", f"{count(cost.flops)}FLOP", _passes(cost, data)),
            ("time", time, basis),
        ]
        narrow = self.size.width < 66
        lines = []
        for name, value, detail in rows:
            line = Content.assemble((f"{name:<11}", "$foreground-muted"), (value, "bold"))
            if detail and narrow:
                line += Content.styled(f"\n  {detail}", "$foreground-muted")
            elif detail:
                line += Content.styled(f"  {detail}", "$foreground-muted")
            lines.append(line)
        self.update(Content("\n").join(lines))

    def _time(self, cost: Cost) -> tuple[str, str]:
        if self.measuring:
            return "measuring …", "a few steps are being run"
        if cost.time_s is None:
            return "unknown until measured", "^t runs a few steps"
        return f"about {duration(cost.time_s)}", sanitize(cost.basis)


def _parts(cost: Cost) -> str:
    optimizer = size(cost.weights + cost.gradients + cost.optimizer)
    return f"{optimizer} weights …, {size(cost.activations)} activations"


def _passes(cost: Cost, data: FoundData | None) -> str:
    if data is None or not data.tokens:
        return f"{count(cost.tokens)} tokens"
    return f"{count(cost.tokens)} tokens, {cost.tokens / data.tokens:.1f} times the data"
