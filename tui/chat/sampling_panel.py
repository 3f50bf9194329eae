"""The sampling controls: a line for each field of `SamplingConfig`, and its presets."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Click, MouseDown, MouseMove, MouseUp
from textual.message import Message as Event
from textual.reactive import reactive
from textual.style import Style
from textual.widget import Widget
from textual.widgets import Static

from kgpt.config import SamplingConfig, sentence
from kgpt_tui.chat.sampling_controls import Control, controls
from kgpt_tui.shared.display import one_line

BAR, VALUE = 9, 8


class FieldRow(Widget, can_focus=True):
    """A name, a bar where the value is a number, and the value."""

    HELP_TITLE = "Sampling"
    BINDINGS = [
        Binding("left,h", "step(-1)", "Less", id="sampling.less"),
        Binding("right,l", "step(1)", "More", id="sampling.more"),
        Binding("shift+left,H", "step(-10)", "Much less", id="sampling.much_less", show=False),
        Binding("shift+right,L", "step(10)", "Much more", id="sampling.much_more", show=False),
        Binding("up,k", "app.focus_previous", "Up", id="sampling.up", show=False),
        Binding("down,j", "app.focus_next", "Down", id="sampling.down", show=False),
        Binding("enter", "type", "Type", id="sampling.type"),
        Binding("space", "switch", "Switch", id="sampling.toggle", show=False),
        Binding("backspace,delete", "reset", "Reset", id="sampling.reset"),
        Binding("s", "screen.save_preset", "Save preset", id="sampling.save", show=False),
    ]
    value: reactive[Any] = reactive(None)

    class Changed(Event):
        """The user chose another value."""

        def __init__(self, control: Control, value: Any):
            super().__init__()
            self.field = control
            self.value = value

    class Typed(Event):
        """The user wants to type the value."""

        def __init__(self, control: Control, value: Any):
            super().__init__()
            self.field = control
            self.value = value

    def __init__(self, control: Control, value: Any, default: Any):
        super().__init__(id=f"field-{control.name}")
        self.control = control
        self.default = default
        self.set_reactive(FieldRow.value, value)
        self._dragging = False

    def render(self) -> Content:
        control = self.control
        changed = self.value != self.default
        width = max(10, self.size.width - BAR - VALUE - 2)
        name = control.name.replace("_", " ")
        parts = [(f"{name:<{width}.{width}} ", "bold $accent" if self.has_focus else "")]
        if control.is_number and control.name != "seed":
            filled = round(control.share(self.value) * BAR)
            parts.append(("━" * filled, "$accent" if changed else "$primary"))
            parts.append(("─" * (BAR - filled), "$border"))
        else:
            parts.append((" " * BAR, ""))
        style = "bold $accent" if changed else "$foreground-muted"
        parts.append((f"{control.text(self.value):>{VALUE + 1}.{VALUE + 1}}", style))
        return Content.assemble(*parts)

    def _change(self, value: Any) -> None:
        if value != self.value:
            self.value = value  # at once: the next key press may come before the panel hears
            self.post_message(self.Changed(self.control, value))

    def action_step(self, steps: int) -> None:
        self._change(self.control.stepped(self.value, steps))

    def action_switch(self) -> None:
        if self.control.kind is bool:
            self._change(not self.value)

    def action_reset(self) -> None:
        self._change(self.default)

    def action_type(self) -> None:
        if self.control.kind is bool:
            self._change(not self.value)
        else:
            self.post_message(self.Typed(self.control, self.value))

    def on_click(self, event: Click) -> None:
        if event.chain == 2 or not self.control.is_number:
            self.action_type()

    def on_mouse_down(self, event: MouseDown) -> None:
        self._dragging = self.control.is_number and self._on_bar(event.x)
        if self._dragging:
            self.capture_mouse()
            self._drag(event.x)

    def on_mouse_move(self, event: MouseMove) -> None:
        if self._dragging:
            self._drag(event.x)

    def on_mouse_up(self, event: MouseUp) -> None:
        self._dragging = False
        self.release_mouse()

    def _bar_at(self) -> int:
        return max(10, self.size.width - BAR - VALUE - 2) + 1

    def _on_bar(self, x: int) -> bool:
        return self._bar_at() - 1 <= x <= self._bar_at() + BAR

    def _drag(self, x: int) -> None:
        self._change(self.control.at_share((x - self._bar_at() + 0.5) / BAR))


class PresetRow(Widget, can_focus=True):
    """The names of the presets; left and right choose."""

    HELP_TITLE = "Presets"
    BINDINGS = [
        Binding("left,h", "step(-1)", "Preset before", id="presets.before"),
        Binding("right,l", "step(1)", "Preset after", id="presets.after"),
        Binding("down,j", "app.focus_next", "Down", id="presets.down", show=False),
        Binding("up,k", "app.focus_previous", "Up", id="presets.up", show=False),
        Binding("s", "screen.save_preset", "Save as preset", id="presets.save"),
        Binding("x,delete", "screen.forget_preset", "Forget", id="presets.forget", show=False),
    ]

    class Chosen(Event):
        """A preset is to be used."""

        def __init__(self, name: str):
            super().__init__()
            self.name = name

    def __init__(self) -> None:
        super().__init__(id="presets")
        self.names: list[str] = []
        self.chosen = ""

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
            place = self.names.index(self.chosen) + offset if self.chosen in self.names else 0
            self.post_message(self.Chosen(self.names[place % len(self.names)]))

    def on_click(self, event: Click) -> None:
        if name := event.style.meta.get("preset"):
            self.post_message(self.Chosen(name))


class SamplingPanel(Vertical):
    """All fields; the screen keeps the values and hears of changes."""

    class Changed(Event):
        """The sampling is another one now."""

        def __init__(self, sampling: SamplingConfig):
            super().__init__()
            self.sampling = sampling

    def __init__(self) -> None:
        super().__init__(id="sampling")
        self.sampling = SamplingConfig()  # type: ignore[call-arg]
        self._default = self.sampling

    def compose(self) -> ComposeResult:
        yield PresetRow()
        with VerticalScroll(id="fields", can_focus=False):
            for name, control in controls().items():
                value = getattr(self.sampling, name)
                yield FieldRow(control, value, value)
        yield Static(id="field-help", markup=False)

    def show(self, sampling: SamplingConfig, default: SamplingConfig) -> None:
        """Draw these values; `default` is what reset goes back to."""
        self.sampling, self._default = sampling, default
        for row in self.query(FieldRow):
            row.default = getattr(default, row.control.name)
            row.value = getattr(sampling, row.control.name)
            row.refresh()
        self._say()

    def show_presets(self, names: list[str], chosen: str) -> None:
        row = self.query_one(PresetRow)
        row.names, row.chosen = names, chosen
        row.refresh(layout=True)

    def on_field_row_changed(self, event: FieldRow.Changed) -> None:
        event.stop()
        self.change(event.field.name, event.value)

    def change(self, name: str, value: Any) -> str:
        """Set one field; returns what is wrong with the value, or an empty string."""
        try:
            values = self.sampling.model_dump() | {name: value}
            self.sampling = SamplingConfig.model_validate(values)
        except ValidationError as error:
            problem = sentence(error, SamplingConfig)
            self.query_one(f"#field-{name}", FieldRow).value = getattr(self.sampling, name)
            self._say(problem)
            return problem
        self.query_one(f"#field-{name}", FieldRow).value = getattr(self.sampling, name)
        self._say()
        self.post_message(self.Changed(self.sampling))
        return ""

    def on_descendant_focus(self) -> None:
        self._say()

    def on_descendant_blur(self) -> None:
        self._say()

    def _say(self, problem: str = "") -> None:
        row = self.screen.focused
        said = Content("")
        if problem:
            said = Content.styled(problem, "$error")
        elif isinstance(row, FieldRow):
            said = Content.assemble(
                (row.control.help, "$foreground"), (f" ({row.control.bounds})", "$foreground-muted")
            )
        self.query_one("#field-help", Static).update(said)
