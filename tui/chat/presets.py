"""Named sampling settings: the built-in presets, those of the user, and the row to choose one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual.binding import Binding
from textual.content import Content
from textual.events import Click
from textual.message import Message as Event
from textual.style import Style
from textual.widget import Widget

from kgpt.config import SamplingConfig
from kgpt.errors import UsageError
from kgpt_tui.shared.display import one_line

Preset = dict[str, Any]  # the fields that differ from the model's own sampling settings

PRESETS: dict[str, Preset] = {
    "model": {},
    "greedy": {"temperature": 0.0},
    "balanced": {"temperature": 0.8, "top_p": 0.95},
    "creative": {"temperature": 1.1, "min_p": 0.05, "repetition_penalty": 1.05},
    "code": {"temperature": 0.3, "top_p": 0.9},
}
KEPT_BY_PRESETS = ("max_tokens", "min_tokens", "stop", "bad_words", "seed", "logit_bias")


def with_preset(base: SamplingConfig, now: SamplingConfig, preset: Preset) -> SamplingConfig:
    """`base` changed by a preset, keeping what presets leave alone (stop strings, length, ...)."""
    kept = {name: getattr(now, name) for name in KEPT_BY_PRESETS if name not in preset}
    return SamplingConfig.parse(base.model_dump() | kept | preset)


def matching_preset(base: SamplingConfig, now: SamplingConfig, presets: dict[str, Preset]) -> str:
    """The name of the preset that gives the settings `now`, or an empty string."""
    for name, preset in presets.items():
        try:
            if with_preset(base, now, preset) == now:
                return name
        except UsageError:
            continue
    return ""


def changed_fields(base: SamplingConfig, now: SamplingConfig) -> Preset:
    """The fields of `now` that differ from `base`, as JSON values."""
    default = base.model_dump(mode="json")
    return {k: v for k, v in now.model_dump(mode="json").items() if v != default[k]}


class PresetRow(Widget, can_focus=True):
    """The names of the presets; left and right choose."""

    HELP_TITLE = "Presets"
    BINDINGS = [
        Binding("left,h", "step(-1)", "Preset before", id="presets.before"),
        Binding("right,l", "step(1)", "Preset after", id="presets.after"),
        Binding("down,j", "app.focus_next", "Down", id="presets.down", show=False),
        Binding("up,k", "app.focus_previous", "Up", id="presets.up", show=False),
        Binding("s", "save", "Save as preset", id="presets.save"),
        Binding("x,delete", "forget", "Forget", id="presets.forget", show=False),
    ]

    @dataclass
    class Chosen(Event):
        """Use a preset."""

        name: str

    class Save(Event):
        """Save the sampling settings as a preset."""

    @dataclass
    class Forget(Event):
        """Delete a preset of the user."""

        name: str

    def __init__(self) -> None:
        super().__init__(id="presets")
        self.names: list[str] = []
        self.chosen = ""

    def show(self, names: list[str], chosen: str) -> None:
        self.names, self.chosen = names, chosen
        self.refresh(layout=True)

    def render(self) -> Content:
        parts = [
            Content.styled("Preset ", "bold $accent" if self.has_focus else "$foreground-muted")
        ]
        for name in self.names:
            style = "bold reverse $accent" if name == self.chosen else "$foreground"
            label = Content.styled(f" {one_line(name, 16)} ", style)
            click = Style.from_meta({"preset": name})
            parts.append(label.stylize(click))
        return Content("").join(parts)

    def action_step(self, offset: int) -> None:
        if self.names:
            index = self.names.index(self.chosen) + offset if self.chosen in self.names else 0
            self.post_message(self.Chosen(self.names[index % len(self.names)]))

    def action_save(self) -> None:
        self.post_message(self.Save())

    def action_forget(self) -> None:
        self.post_message(self.Forget(self.chosen))

    def on_click(self, event: Click) -> None:
        if name := event.style.meta.get("preset"):
            self.post_message(self.Chosen(name))
