"""The sampling controls: a line for each field of `SamplingConfig`, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.events import Click, MouseDown, MouseMove, MouseUp
from textual.message import Message as Event
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Static

from kgpt.config import SamplingConfig, sentence
from kgpt.errors import UsageError
from kgpt_tui.chat.migrations import renamed_sampling_fields
from kgpt_tui.chat.presets import (
    PRESETS,
    Preset,
    PresetRow,
    changed_fields,
    matching_preset,
    with_preset,
)
from kgpt_tui.chat.sampling_controls import Control, controls, problem_with
from kgpt_tui.shared.app_protocol import kgpt_app
from kgpt_tui.shared.dialogs import InputDialog
from kgpt_tui.shared.display import sanitize
from kgpt_tui.shared.text_dialog import TextDialog

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
        Binding("s", "save_preset", "Save preset", id="sampling.save", show=False),
    ]
    value: reactive[Any] = reactive(None)

    @dataclass
    class Changed(Event):
        """The user chose another value."""

        field: Control
        value: Any

    @dataclass
    class Edit(Event):
        """The user wants to type the value."""

        field: Control
        value: Any

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
            filled = round(control.fraction(self.value) * BAR)
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

    def action_save_preset(self) -> None:
        self.post_message(PresetRow.Save())

    def action_type(self) -> None:
        if self.control.kind is bool:
            self._change(not self.value)
        else:
            self.post_message(self.Edit(self.control, self.value))

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
        self._change(self.control.at_fraction((x - self._bar_at() + 0.5) / BAR))


class SamplingPanel(Vertical):
    """All fields and presets; posts `Changed` with the new sampling settings."""

    @dataclass
    class Changed(Event):
        """The user changed the sampling settings."""

        sampling: SamplingConfig

    def __init__(self) -> None:
        super().__init__(id="sampling")
        self.sampling = SamplingConfig()
        self._default = self.sampling

    def compose(self) -> ComposeResult:
        yield PresetRow()
        with VerticalScroll(id="fields", can_focus=False):
            for name, control in controls().items():
                value = getattr(self.sampling, name)
                yield FieldRow(control, value, value)
        yield Static(id="field-help", markup=False)

    @property
    def presets(self) -> dict[str, Preset]:
        """Those built in and those of the user."""
        own = kgpt_app(self).settings.presets
        return PRESETS | {name: renamed_sampling_fields(own[name]) for name in own}

    def show(self, sampling: SamplingConfig, default: SamplingConfig) -> None:
        """Draw these values; `default` is what reset goes back to."""
        self.sampling, self._default = sampling, default
        for row in self.query(FieldRow):
            row.default = getattr(default, row.control.name)
            row.value = getattr(sampling, row.control.name)
            row.refresh()
        self._show_presets()
        self._show_help()

    def _show_presets(self) -> None:
        presets = self.presets
        chosen = matching_preset(self._default, self.sampling, presets)
        self.query_one(PresetRow).show(list(presets), chosen)

    def focus_first(self) -> None:
        self.query_one(FieldRow).focus()

    def use_preset(self, name: str) -> None:
        """Set the fields to a preset."""
        presets = self.presets
        if name not in presets:
            raise UsageError(f"There is no preset {name}; there are {', '.join(presets)}.")
        self.post_message(self.Changed(with_preset(self._default, self.sampling, presets[name])))

    def save_preset(self, name: str | None) -> None:
        """Keep the settings as a preset of the user."""
        if name:
            preset = changed_fields(self._default, self.sampling)
            own = kgpt_app(self).settings.presets | {name: preset}
            kgpt_app(self).save_settings(presets=own)
            self._show_presets()
            self.notify(sanitize(f"Kept as the preset {name}."), markup=False)

    @on(PresetRow.Save)
    def ask_preset_name(self) -> None:
        """Keep the settings as a preset, under a name that is asked for."""
        dialog = InputDialog("Save preset", "A name for these sampling settings.")
        self.app.push_screen(dialog, lambda name: self.save_preset((name or "").strip()))

    @on(PresetRow.Forget)
    def _forget_preset(self, event: PresetRow.Forget) -> None:
        own = dict(kgpt_app(self).settings.presets)
        if own.pop(event.name, None) is not None:
            kgpt_app(self).save_settings(presets=own)
            self._show_presets()

    def change_text(self, name: str, text: str) -> None:
        """Set a field from typed text."""
        known = controls()
        if name not in known:
            raise UsageError(f"There is no sampling field {name}; they are {', '.join(known)}.")
        if problem := self._change(name, known[name].parse(text)):
            raise UsageError(problem)

    def _change(self, name: str, value: Any) -> str:
        """Set one field; returns what is wrong with the value, or an empty string."""
        problem = ""
        try:
            values = self.sampling.model_dump() | {name: value}
            self.sampling = SamplingConfig.model_validate(values)
        except ValidationError as error:
            problem = sentence(error, SamplingConfig)
        self.query_one(f"#field-{name}", FieldRow).value = getattr(self.sampling, name)
        self._show_help(problem)
        if not problem:
            self.post_message(self.Changed(self.sampling))
        return problem

    @on(FieldRow.Changed)
    def _field_changed(self, event: FieldRow.Changed) -> None:
        event.stop()
        self._change(event.field.name, event.value)

    @on(FieldRow.Edit)
    def _edit_field(self, event: FieldRow.Edit) -> None:
        event.stop()
        control = event.field

        def accept(text: str | None) -> None:
            if text is not None:
                self._change(control.name, control.parse(text))

        title, text = control.name.replace("_", " "), control.editable(event.value)
        hint = f"{control.help} ({control.bounds})"
        problem = partial(problem_with, self.sampling, control)
        if control.is_number:
            self.app.push_screen(InputDialog(title, hint, text, problem), accept)
        else:
            self.app.push_screen(TextDialog(title, text, hint, problem), accept)

    @on(PresetRow.Chosen)
    def _preset_chosen(self, event: PresetRow.Chosen) -> None:
        event.stop()
        try:
            self.use_preset(event.name)
        except UsageError as error:
            self.notify(sanitize(str(error)), severity="error", markup=False)

    def on_descendant_focus(self) -> None:
        self._show_help()

    def on_descendant_blur(self) -> None:
        self._show_help()

    def _show_help(self, problem: str = "") -> None:
        """What the focused field means, or what is wrong with the value it was given."""
        row = self.screen.focused
        text = Content("")
        if problem:
            text = Content.styled(problem, "$error")
        elif isinstance(row, FieldRow):
            text = Content.assemble(
                (row.control.help, "$foreground"), (f" ({row.control.bounds})", "$foreground-muted")
            )
        self.query_one("#field-help", Static).update(text)
